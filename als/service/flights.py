"""Lookups that wait for a download: one pull per image whatever the number of askers, each with its own deadline."""

from __future__ import annotations

import logging
import threading
import time

from als.errors import AlsError, DeadlineExceeded
from als.fetch.pull import layer_names
from als.model.digest import Digest
from als.model.manifest import Descriptor
from als.model.reference import Reference
from als.service import Service
from als.store.images import ImageRecord

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.5


class Flight:
    """One pull of one image in a thread of its own, and those who wait for its layers. It is its pull's Progress."""

    def __init__(self, service: Service, reference: Reference, digest: Digest) -> None:
        self._service = service
        self._reference = reference
        self._digest = digest
        self._changed = threading.Condition()
        self._image: ImageRecord | None = None
        self._published = 0
        self._error: AlsError | None = None
        self._ended = False
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"pull {reference}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def ended(self) -> bool:
        return self._ended

    def concerns(self, digest: Digest) -> bool:
        """Whether waiting here can bring that layer: the image is not known yet, or has it, and whoever asks for a layer by
        its blob, which has to be here whole, waits for others who did."""
        if self._image is None or digest == self._digest:
            return True
        blobs = [layer.digest for layer in self._image.manifest.layers]
        return digest in layer_names(self._image) and (digest in blobs) <= (self._digest in blobs)

    def wait(self, digest: Digest, stall: float) -> tuple[ImageRecord, int] | None:
        """The image and the index of its layer, once that is published; None: this image does not have it, or it is not served.

        :param stall: seconds without any progress after which the wait ends.
        :raises AlsError: the pull failed, or made no progress.
        """
        begun = time.monotonic()
        with self._changed:
            while True:
                if self._image is not None:
                    index = self._service.index_of(self._image, digest)
                    if index is None or self._service.refusal(self._image, digest):
                        return None
                    if index < self._published:
                        return self._image, index
                if self._error is not None:
                    raise self._error
                if self._ended:
                    return None
                if time.monotonic() - max(begun, self._last) > stall:
                    raise DeadlineExceeded(f"no progress for {stall:.0f} seconds", where=f"{self._reference} {digest}")
                self._changed.wait(_TICK_SECONDS)

    def begins(self, layer: Descriptor) -> None:
        self._touch()

    def advances(self, layer: Descriptor, count: int) -> None:
        # Not under the lock: a torn read of the time does not exist, and this is called for every piece.
        self._last = time.monotonic()

    def done(self, layer: Descriptor, *, fetched: bool) -> None:
        self._touch()

    def _run(self) -> None:
        error: AlsError | None = None
        try:
            self._service.pull(
                self._reference, self, has=self._digest, wanted=self._wanted, published=self._more_published, lazily=True
            )
        except AlsError as failure:
            error = failure
        except OSError as failure:
            error = AlsError(f"{failure.strerror or failure}", where=str(self._reference))
        finally:
            with self._changed:
                self._error = error
                self._ended = True
                self._changed.notify_all()

    def _wanted(self, image: ImageRecord) -> bool:
        """Whether anything is to be fetched: not for an image whose layers would be refused one by one."""
        with self._changed:
            self._image = image
            self._last = time.monotonic()
            self._changed.notify_all()
        reason = self._service.refusal(image, self._digest)
        if reason:
            log.info("%s is left to the client: %s", self._reference, reason)
        return not reason

    def _more_published(self, image: ImageRecord, count: int) -> None:
        with self._changed:
            self._published = count
            self._last = time.monotonic()
            self._changed.notify_all()

    def _touch(self) -> None:
        with self._changed:
            self._last = time.monotonic()
            self._changed.notify_all()


class Flights:
    """The pulls that are under way in this process, by reference."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._flights: dict[str, Flight] = {}

    def wait(self, reference: Reference, digest: Digest, stall: float) -> tuple[ImageRecord, int] | None:
        """As :meth:`Flight.wait`, on the pull that is under way or a new one."""
        with self._lock:
            self._flights = {name: flight for name, flight in self._flights.items() if not flight.ended}
            flight = self._flights.get(str(reference))
            if flight is None or not flight.concerns(digest):
                flight = Flight(self._service, reference, digest)
                self._flights[str(reference)] = flight
                flight.start()
        return flight.wait(digest, stall)
