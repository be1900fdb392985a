"""A pull that was asked for through the control socket, in the client's environment and for as long as the client is there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from als.control.wire import Channel, error_message
from als.errors import Abandoned, AlsError
from als.fetch.progress import Silent
from als.model.digest import Digest
from als.model.manifest import Descriptor
from als.model.policy import Listing
from als.model.reference import parse_reference
from als.registry.environment import Environment
from als.service import Service
from als.service.listing import verdict

_WORKERS_OWN = ("SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF", "RES_OPTIONS", "LOCALDOMAIN", "HOSTALIASES")
"""Variables that libraries read in the workers themselves, which have the daemon's."""
_TELL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks, and what he brings along."""

    channel: Channel
    uid: int
    variables: Mapping[str, str]
    """His environment, which is nobody else's: not to be logged, nor kept after the answer."""
    stopping: threading.Event
    """Set when the daemon ends."""

    def given_up(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.stopping.is_set() or self.channel.gone()


class _Told:
    """A pull's Progress that is sent to the client; how far a layer is, at most ten times a second."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._layers: dict[Digest, tuple[int, float]] = {}

    def begins(self, layer: Descriptor) -> None:
        self._tell({"layer": str(layer.digest), "begins": layer.size})

    def advances(self, layer: Descriptor, count: int) -> None:
        now = time.monotonic()
        with self._lock:
            size, told = self._layers.get(layer.digest, (0, 0.0))
            due = now - told >= _TELL_SECONDS
            self._layers[layer.digest] = (size + count, now if due else told)
        if due:
            # Lost where the client is slow to read: the next one says it all.
            self._channel.offer({"layer": str(layer.digest), "at": size + count})

    def done(self, layer: Descriptor, *, fetched: bool) -> None:
        self._tell({"layer": str(layer.digest), "done": fetched, "at": layer.size if fetched else 0})

    def _tell(self, message: dict[str, object]) -> None:
        try:
            self._channel.send(message)
        except OSError as error:
            raise Abandoned("nobody waits for it any more") from error


def answer_pull(service: Service, call: Call, text: str, progress: bool) -> dict[str, object]:
    """Pull an image as ``als pull`` would in the client's place; the message that tells how it went."""
    if any(call.variables.get(name) != os.environ.get(name) for name in _WORKERS_OWN):
        return {"elsewhere": "workers have another environment"}
    theirs = service.within(Environment.of(call.variables, call.uid))
    try:
        reference = parse_reference(text)
        told = _Told(call.channel) if progress else Silent()
        image = theirs.pull(reference, told, asked=True, given_up=call.given_up)
        found = verdict(reference, theirs.environment.home)
        layers_only = "" if found.listing is Listing.LISTED else f"{found.policy}: {found.reason}"
    except AlsError as error:
        if call.stopping.is_set() and isinstance(error, Abandoned):
            return error_message(AlsError("the daemon is being stopped", where=text, hint="pull again"))
        return error_message(error)
    except OSError as error:
        return error_message(AlsError(f"{error.strerror or error}", where=text))
    return {"digest": str(image.digest), "layers_only": layers_only}
