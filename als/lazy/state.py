"""What is here of a layer, and who waits for the rest: the state behind :class:`als.lazy.layer.LazyLayer`."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from als.errors import AlsError, DeadlineExceeded, DigestMismatch, StoreError
from als.fetch.source import RangeSource
from als.formats.codecs import Compression
from als.formats.index import Chunk, LayerIndex
from als.lazy.ahead import ReadAhead
from als.lazy.chunks import ChunkMap
from als.lazy.engine import Engine
from als.lazy.meter import Meter
from als.lazy.partial import LazyFolder
from als.lazy.record import LazyRecord
from als.lazy.schedule import Want
from als.lazy.target import Target
from als.lazy.waiting import Waiter, Waiters
from als.model.counting import Saved
from als.model.logfields import about

log = logging.getLogger("als.lazy")

_COMMIT_BYTES = 64 << 20
_COMMIT_SECONDS = 5.0


class Origin(Protocol):
    """Where a layer's bytes come from; shared by the layers of an image."""

    host: str

    def source(self) -> RangeSource:
        """Whom to ask.

        :raises AlsError: there is nobody to ask.
        """
        ...

    def renew(self, source: RangeSource | None) -> None:
        """Do not use this one again (None: whichever is in use)."""
        ...


class LayerState(Target):
    """Chunks and files as they arrive, and the reads that wait for them. Thread-safe.

    :param known: called with the sha256 of new objects.
    """

    def __init__(
        self,
        key: str,
        record: LazyRecord,
        index: LayerIndex,
        folder: LazyFolder,
        engine: Engine,
        origin: Origin,
        known: Callable[[Sequence[bytes]], None],
    ) -> None:
        self.key = key
        self.record = record
        self.index = index
        self.folder = folder
        self.drawing = threading.Lock()
        """Held by who sees to the layer's image."""
        self.engine = engine
        self.origin = origin
        self.content: Future[None] = Future()
        """Fulfilled when every file is here; fails when the layer is refused or closed before."""
        self._known = known
        self._lock = threading.Lock()
        self._chunks = ChunkMap(index)
        self._waiting = Waiters()
        self._ahead = ReadAhead()
        self._refused: AlsError | None = None
        self._filling = False
        self._settled = False
        self._committing = False
        self._place = ""
        self.meter = Meter()
        """Of the blob's bytes that came from a registry."""
        self.last_trouble: tuple[float, AlsError] | None = None
        """What did not come last, and when (seconds since the epoch)."""
        # As a target of the engine:
        self.digest = record.descriptor.digest
        self.blob_size = record.descriptor.size
        self.where = record.reference
        self.host = origin.host
        self.compression: Compression = index.compression
        self.whole = False
        self.starts: Sequence[int] = index.columns.unit_starts
        self.ends: Sequence[int] = index.columns.unit_ends

    def about(self, event: str) -> dict[str, Mapping[str, str]]:
        """For lines of the log about this layer."""
        return about(event, image=self.where, layer=self.digest, host=self.host)

    def commit(self) -> None:
        """Wait for the disk and give the files that are here their names in the store.

        :raises StoreError: the disk refused.
        """
        objects = self.folder.commit()
        if objects:
            self._known(objects)

    def refuse(self, error: AlsError) -> None:
        """The layer is not what was promised: nothing more of it is served."""
        with self._lock:
            if self._refused is not None:
                return
            self._refused = error
        self.engine.remove(self)
        self._fail_all(error)
        self._settle(error)

    def _bytes(self, name: bytes, offset: int, length: int) -> bytes:
        """Bytes that are here."""

        def blank() -> bool:
            number = self._chunks.find(name)
            return number is not None and all(chunk.hole for chunk in self.index.chunks_within(number, offset, length))

        return self.folder.read(name, offset, length, blank)

    def _wait(self, name: bytes, offset: int, length: int, timeout: float, want: Want) -> Waiter | None:
        """A waiter, if there is something to wait for."""
        number = self._chunks.find(name)
        if self._refused is not None:
            raise self._refused
        if number is None or not length or self._chunks.whole(number):
            return None
        if self._missing(number, offset, length):
            sha256 = self.index.sha256(number)
            self._have(self.folder.link_known([(sha256, self.index.size(number))] if sha256 is not None else []))
        with self._lock:
            missing = {row: chunk.unit.number for row, chunk in self._chunks.missing(number, offset, length)}
            waiter = Waiter(name, offset, length, missing, time.monotonic() + timeout, want) if missing else None
            if waiter is not None:
                self._waiting.add(waiter)
            # Who asks before there is a reader says nothing of where a reader will go on.
            start, more = self._ahead.after(number, offset, length) if want is Want.DEMAND else (0, 0)
            ahead = self._chunks.missing(number, start, more) if more else []
        if waiter is not None:
            # Weakly: a read that was answered would otherwise be kept, with its bytes, until its deadline.
            late = weakref.ref(waiter)
            self.engine.at(waiter.deadline, lambda: self._expire(late()))
            self.engine.want(self, sorted(set(missing.values())), want)
        self._want(ahead, Want.AHEAD)
        return waiter

    def _missing(self, number: int, offset: int, length: int) -> list[tuple[int, Chunk]]:
        with self._lock:
            return self._chunks.missing(number, offset, length)

    def _want(self, missing: Sequence[tuple[int, Chunk]], want: Want) -> None:
        if missing:
            self.engine.want(self, sorted({chunk.unit.number for _, chunk in missing}), want)

    def _take(self, row: int, number: int, chunk: Chunk, view: memoryview) -> None:
        """A verified chunk of a file that has more, or is large."""
        name, size = self._chunks.name(number), self.index.size(number)
        self.folder.write(name, size, chunk.offset, view)
        with self._lock:
            if self._chunks.has(row):
                return
            last = self._chunks.set_here(number, row)
            ready = self._waiting.arrived([row])
        self._fulfil(ready)
        if last:
            try:
                self.folder.finish(name, self.index.sha256(number), size)
            except DigestMismatch as error:
                self.refuse(DigestMismatch(error.what, where=f"{self.where} {self.digest} {error.where}"))
                return
            except StoreError:
                # With the chunk that comes again the file is finished; nobody else would try once more.
                with self._lock:
                    self._chunks.set_absent(number, row)
                raise
            self._whole([number])

    def _have(self, names: Sequence[bytes]) -> None:
        """Files were taken from the store."""
        numbers = [number for name in names if (number := self._chunks.find(name)) is not None]
        if numbers:
            self.engine.counters.saved(Saved.FILE, sum(map(self.index.size, numbers)))
        self._whole(numbers)

    def _whole(self, numbers: Sequence[int]) -> None:
        if not numbers:
            return
        ready: list[Waiter] = []
        unneeded: list[int] = []
        with self._lock:
            for number in numbers:
                unneeded += self._chunks.set_whole(number)
                ready += self._waiting.arrived(self._chunks.rows(number))
        self._fulfil(ready)
        self.engine.arrived(self, unneeded)
        self._see_whether_complete()

    def _see_whether_complete(self) -> None:
        with self._lock:
            complete = self._chunks.complete
        if complete:
            self._settle(None)

    def _settle(self, error: AlsError | None) -> None:
        """Tell who waits for the content, once."""
        with self._lock:
            settled, self._settled = self._settled, True
        if settled:
            return
        if error is not None:
            self.content.set_exception(error)
        else:
            log.info("%s %s: every file is here", self.where, self.digest, extra=self.about("complete"))
            self.content.set_result(None)

    def _fulfil(self, waiters: Iterable[Waiter]) -> None:
        for waiter in waiters:
            if not waiter.future.set_running_or_notify_cancel():
                continue
            try:
                data = self._bytes(waiter.name, waiter.offset, waiter.length)
            except AlsError as error:
                waiter.future.set_exception(error)
            else:
                waiter.future.set_result(data)

    def _expire(self, waiter: Waiter | None) -> None:
        if waiter is None or not waiter.missing:
            return
        error = waiter.error or DeadlineExceeded(
            "no answer in time", where=f"{self.where} {self.digest} from {self._place or self.host}"
        )
        log.log(
            logging.WARNING if waiter.want is Want.DEMAND else logging.DEBUG,
            "a read was given up: %s",
            error,
            extra=self.about("read failed"),
        )
        self._give_up(waiter, error)

    def _give_up(self, waiter: Waiter, error: AlsError) -> None:
        with self._lock:
            units = self._waiting.drop(waiter)
        if units is not None:
            self.engine.unwant(self, units)
            waiter.fail(error)

    def _fail_all(self, error: AlsError) -> None:
        with self._lock:
            waiters = self._waiting.clear()
        for waiter in waiters:
            waiter.fail(error)

    def _commit_now_and_then(self) -> None:
        with self._lock:
            if self._committing or not self.folder.staged_bytes:
                return
            self._committing = True
        if self.folder.staged_bytes >= _COMMIT_BYTES:
            self.engine.run(self._commit)
        else:
            self.engine.at(time.monotonic() + _COMMIT_SECONDS, lambda: self.engine.run(self._commit))

    def _commit(self) -> None:
        with self._lock:
            self._committing = False
        self.commit()
