"""One layer that can be read before it is here.

:meth:`LazyLayer.read` gives a future; whoever has an event loop is called back (``add_done_callback``), in a thread of the
engine or at once. It is fulfilled as soon as the chunks that hold the bytes are here and verified, whatever else is in the air.
If they do not come within the deadline, it fails with the last reason why they did not; some reasons (no such blob, no right
to it, a full disk, bytes that are wrong time and again) are not waited out. Nothing that failed is remembered: the next read
asks anew.

A reader who goes through a file from front to back is given what it will read next before it asks, in a window that grows.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from als.errors import (
    AlsError,
    BadImage,
    DeadlineExceeded,
    DigestMismatch,
    NotFound,
    RegistryDenied,
    StoreError,
)
from als.fetch.source import RangeSource
from als.formats.codecs import Compression
from als.formats.index import Chunk, LayerIndex
from als.lazy.chunks import ChunkMap, Progress
from als.lazy.engine import Engine
from als.lazy.partial import LazyFolder, LazyRecord
from als.lazy.rest import RestLog
from als.lazy.schedule import Want

log = logging.getLogger("als.lazy")

REST_MAX = 64 << 20
"""The most bytes beside files that a unit may hold: headers, of which each can have some MiB."""
_SMALL = 1 << 20
_WRONG_MAX = 3
_COMMIT_BYTES = 64 << 20
_COMMIT_SECONDS = 5.0
_FIRST_WINDOW = 256 << 10
_LAST_WINDOW = 16 << 20
_READERS = 256


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


class _Waiter:
    """A read that waits for chunks."""

    def __init__(self, name: bytes, offset: int, length: int, missing: Mapping[int, int], deadline: float) -> None:
        self.name = name
        self.offset = offset
        self.length = length
        self.missing = dict(missing)
        """Rows of chunks and their units."""
        self.deadline = deadline
        self.future: Future[bytes] = Future()
        self.error: AlsError | None = None
        self.wrong: dict[int, int] = {}
        """How often each unit came and was wrong."""


class _Reader:
    """How far somebody has read a file from front to back."""

    def __init__(self) -> None:
        self.next = 0
        self.window = _FIRST_WINDOW
        self.asked = 0


class LazyLayer:
    """See the module. Thread-safe. Made by :class:`als.lazy.store.LazyStore`.

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
        self.engine = engine
        self.origin = origin
        self.content: Future[None] = Future()
        """Fulfilled when every file is here; fails when the layer is refused or closed before."""
        self.rest: RestLog | None = None
        self._known = known
        self._lock = threading.Lock()
        self._chunks = ChunkMap(index)
        self._waiting: dict[int, list[_Waiter]] = {}
        self._readers: OrderedDict[int, _Reader] = OrderedDict()
        self._refused: AlsError | None = None
        self._filling = False
        self._committing = False
        self._complained = 0.0
        self._place = ""
        # As a target of the engine:
        self.digest = record.descriptor.digest
        self.blob_size = record.descriptor.size
        self.where = record.reference
        self.host = origin.host
        self.compression: Compression = index.compression
        self.whole = False
        self.starts: Sequence[int] = index.columns.unit_starts
        self.ends: Sequence[int] = index.columns.unit_ends

    # -- for readers

    def size(self, name: bytes) -> int:
        """Bytes of a file, by its name in the forest.

        :raises NotFound: the layer has no such file.
        """
        number = self._chunks.find(name)
        if number is None:
            raise NotFound("the layer has no such file", where=f"{self.where} {name.hex()}")
        return self.index.size(number)

    def whole_file(self, name: bytes) -> bool:
        """Whether all of a file is here: it is in the forest then.

        :raises NotFound: the layer has no such file.
        """
        self.size(name)
        number = self._chunks.find(name)
        return number is not None and self._chunks.whole(number)

    def read(self, name: bytes, offset: int, length: int, timeout: float) -> Future[bytes]:
        """Bytes of a file; fewer than asked for only at its end.

        :param timeout: seconds after which the future fails.
        :returns: it fails with NotFound (no such file), DeadlineExceeded, or another AlsError for why they do not come.
        """
        done: Future[bytes] = Future()
        try:
            length = max(0, min(length, self.size(name) - offset))
            waiter = self._wait(name, offset, length, timeout)
            if waiter is not None:
                return waiter.future
            done.set_result(self.folder.read(name, offset, length) if length else b"")
        except AlsError as error:
            done.set_exception(error)
        return done

    def want(self, names: Iterable[bytes], want: Want = Want.PREFETCH) -> None:
        """Have whole files fetched, in this order; what is unknown is passed over."""
        for name in names:
            number = self._chunks.find(name)
            if number is not None:
                self._want(self._missing(number, 0, self.index.size(number)), want)

    def want_units(self, units: Iterable[int], want: Want = Want.PREFETCH) -> None:
        """Have units of the index fetched (its prioritized files)."""
        self.engine.want(self, units, want)

    def fill(self, *, on: bool = True) -> None:
        """Fetch everything in the background, or no longer."""
        self._filling = on
        self.engine.fill(self, on=on)

    @property
    def filling(self) -> bool:
        """Whether `fill` is on."""
        return self._filling

    @property
    def progress(self) -> Progress:
        """How much is here."""
        with self._lock:
            return self._chunks.progress

    @property
    def refused(self) -> AlsError | None:
        """Why the layer must not be shown any more."""
        return self._refused

    # -- life

    def start(self) -> None:
        """Find out what is here (in the folder, and in the store) and begin to serve.

        :raises BadImage: the index and the store contradict each other.
        :raises StoreError: the disk does.
        """
        self.folder.recover(self._chunks)
        wanted = [(self.index.sha256(number) or b"", self.index.size(number)) for number in self._chunks.absent()]
        for sha256 in self.folder.link_all_known(each for each in wanted if each[0]):
            number = self._chunks.find(sha256)
            if number is not None:
                self._chunks.set_whole(number)
        self.engine.add(self, self._chunks.unneeded())
        self._see_whether_complete()

    def keep_rest(self, rest: RestLog) -> None:
        """Keep what units hold beside files, from now on."""
        self.rest = rest
        self.whole = True

    def offer(self, objects: Sequence[bytes]) -> None:
        """The store has these now."""
        wanted: list[tuple[bytes, int]] = []
        for sha256 in objects:
            number = self._chunks.find(sha256)
            if number is not None and not self._chunks.whole(number):
                wanted.append((sha256, self.index.size(number)))
        self._have(self.folder.link_known(wanted))

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
        if not self.content.done():
            self.content.set_exception(error)

    def close(self) -> None:
        """Serve no more; what is here stays. Opened again, the layer goes on from there."""
        self.engine.remove(self)
        error = DeadlineExceeded("the layer is being closed", where=self.where)
        self._fail_all(error)
        if not self.content.done():
            self.content.set_exception(error)
        if self.rest is not None:
            self.rest.close()

    # -- as a target of the engine

    def most(self, unit: int) -> int:
        end = max((chunk.inner_offset + chunk.size for _, chunk in self.index.chunks_in(unit)), default=0)
        return end + REST_MAX if self.whole else end

    def still_needed(self, units: Sequence[int]) -> set[int]:
        wanted: dict[bytes, int] = {}
        with self._lock:
            for unit in units:
                for row, number, _ in self._chunks.in_unit(unit):
                    sha256 = self.index.sha256(number)
                    if sha256 is not None and not self._chunks.has(row) and self._chunks.stands(number):
                        wanted[sha256] = self.index.size(number)
        self._have(self.folder.link_known(wanted.items()))
        with self._lock:
            return {unit for unit in units if self._chunks.needed(unit)}

    def source(self) -> RangeSource:
        return self.origin.source()

    def broken(self, source: RangeSource) -> None:
        self.origin.renew(source)

    def served(self, place: str) -> None:
        self._place = place

    def deliver(self, units: Mapping[int, bytearray]) -> dict[int, AlsError]:
        wrong: dict[int, AlsError] = {}
        small: dict[bytes, memoryview] = {}
        whole: list[int] = []
        for unit, data in units.items():
            for row, number, chunk in self._chunks.in_unit(unit):
                if chunk.hole or self._chunks.has(row) or not self._chunks.stands(number):
                    continue
                view = memoryview(data)[chunk.inner_offset : chunk.inner_offset + chunk.size]
                if len(view) != chunk.size:
                    wrong.setdefault(unit, BadImage("the data end before their last chunk does"))
                elif hashlib.sha256(view).digest() != chunk.sha256:
                    wrong.setdefault(unit, DigestMismatch("the bytes that came are not those that the index promises"))
                elif chunk.size == self.index.size(number) <= _SMALL and self.index.sha256(number) == chunk.sha256:
                    small[chunk.sha256] = view
                    whole.append(number)
                else:
                    self._take(row, number, chunk, view)
            if self.rest is not None and unit not in wrong:
                self.rest.add(unit, beside(data, [chunk for _, chunk in self.index.chunks_in(unit)]))
        self.folder.store_all(small)
        self._whole(whole)
        self._commit_now_and_then()
        return wrong

    def trouble(self, units: Sequence[int], error: AlsError) -> None:
        wrong = isinstance(error, BadImage)
        final = isinstance(error, NotFound | StoreError)
        if isinstance(error, RegistryDenied):
            # The credentials may have changed since they were read.
            self.origin.renew(None)
        failed: list[_Waiter] = []
        with self._lock:
            wanted = set(units)
            for waiter in {each for waiters in self._waiting.values() for each in waiters}:
                if wanted.isdisjoint(waiter.missing.values()):
                    continue
                denied = isinstance(error, RegistryDenied) and isinstance(waiter.error, RegistryDenied)
                waiter.error = error
                for unit in units if wrong else ():
                    waiter.wrong[unit] = waiter.wrong.get(unit, 0) + 1
                if final or denied or max(waiter.wrong.values(), default=0) >= _WRONG_MAX:
                    failed.append(waiter)
        for waiter in failed:
            self._give_up(waiter, error)
        now = time.monotonic()
        if failed or now - self._complained > _COMMIT_SECONDS:
            self._complained = now
            log.warning("%s", error)

    # -- within

    def _wait(self, name: bytes, offset: int, length: int, timeout: float) -> _Waiter | None:
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
            waiter = _Waiter(name, offset, length, missing, time.monotonic() + timeout) if missing else None
            for row in missing:
                assert waiter is not None
                self._waiting.setdefault(row, []).append(waiter)
        if waiter is not None:
            # Weakly: a read that was answered would otherwise be kept, with its bytes, until its deadline.
            late = weakref.ref(waiter)
            self.engine.at(waiter.deadline, lambda: self._expire(late()))
            self.engine.want(self, sorted(set(missing.values())), Want.DEMAND)
        self._read_ahead(number, offset, length)
        return waiter

    def _read_ahead(self, number: int, offset: int, length: int) -> None:
        end = offset + length
        with self._lock:
            reader = self._readers.setdefault(number, _Reader())
            self._readers.move_to_end(number)
            if len(self._readers) > _READERS:
                self._readers.popitem(last=False)
            # The kernel's own read-ahead may come a little out of order.
            going_on = reader.next and abs(offset - reader.next) <= _FIRST_WINDOW
            reader.next = max(reader.next, end) if going_on else end
            if not going_on:
                reader.window, reader.asked = _FIRST_WINDOW, end
                return
            if end + reader.window // 2 <= reader.asked:
                return
            start = max(end, reader.asked)
            reader.window = min(2 * reader.window, _LAST_WINDOW)
            reader.asked = end + reader.window
            missing = self._chunks.missing(number, start, reader.asked - start)
        self._want(missing, Want.AHEAD)

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
            ready = self._arrived([row])
        self._fulfil(ready)
        if last:
            try:
                self.folder.finish(name, self.index.sha256(number), size)
            except DigestMismatch as error:
                self.refuse(DigestMismatch(error.what, where=f"{self.where} {self.digest} {error.where}"))
                return
            self._whole([number])

    def _have(self, names: Sequence[bytes]) -> None:
        """Files were taken from the store."""
        numbers = [self._chunks.find(name) for name in names]
        self._whole([number for number in numbers if number is not None])

    def _whole(self, numbers: Sequence[int]) -> None:
        if not numbers:
            return
        ready: list[_Waiter] = []
        unneeded: list[int] = []
        with self._lock:
            for number in numbers:
                unneeded += self._chunks.set_whole(number)
                if self._waiting:
                    ready += self._arrived(self._chunks.rows(number))
        self._fulfil(ready)
        self.engine.arrived(self, unneeded)
        self._see_whether_complete()

    def _see_whether_complete(self) -> None:
        with self._lock:
            complete = self._chunks.complete and not self.content.done() and self.content.set_running_or_notify_cancel()
        if complete:
            self.content.set_result(None)

    def _arrived(self, rows: Iterable[int]) -> list[_Waiter]:
        """Which waiters have all that they need now. The lock is held."""
        ready: list[_Waiter] = []
        for row in rows:
            for waiter in self._waiting.pop(row, ()):
                waiter.missing.pop(row, None)
                if not waiter.missing:
                    ready.append(waiter)
        return ready

    def _fulfil(self, waiters: Iterable[_Waiter]) -> None:
        for waiter in waiters:
            if not waiter.future.set_running_or_notify_cancel():
                continue
            try:
                data = self.folder.read(waiter.name, waiter.offset, waiter.length)
            except AlsError as error:
                waiter.future.set_exception(error)
            else:
                waiter.future.set_result(data)

    def _expire(self, waiter: _Waiter | None) -> None:
        if waiter is None or not waiter.missing:
            return
        error = waiter.error or DeadlineExceeded(
            "no answer in time", where=f"{self.where} {self.digest} from {self._place or self.host}"
        )
        log.warning("a read was given up: %s", error)
        self._give_up(waiter, error)

    def _give_up(self, waiter: _Waiter, error: AlsError) -> None:
        units: set[int] = set()
        with self._lock:
            if not waiter.missing:
                return
            for row, unit in waiter.missing.items():
                others = [each for each in self._waiting.get(row, ()) if each is not waiter]
                if others:
                    self._waiting[row] = others
                else:
                    self._waiting.pop(row, None)
                    units.add(unit)
            waiter.missing.clear()
        self.engine.unwant(self, units)
        if waiter.future.set_running_or_notify_cancel():
            waiter.future.set_exception(error)

    def _fail_all(self, error: AlsError) -> None:
        with self._lock:
            waiters = {each for waiters in self._waiting.values() for each in waiters}
            self._waiting.clear()
            for waiter in waiters:
                waiter.missing.clear()
        for waiter in waiters:
            if waiter.future.set_running_or_notify_cancel():
                waiter.future.set_exception(error)

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


def beside(data: bytearray, chunks: Sequence[Chunk]) -> bytes:
    """What a unit holds beside its chunks."""
    parts: list[memoryview] = []
    view = memoryview(data)
    position = 0
    for chunk in chunks:
        parts.append(view[position : chunk.inner_offset])
        position = chunk.inner_offset + chunk.size
    return b"".join([*parts, view[position:]])
