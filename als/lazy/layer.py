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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future

from als.errors import (
    AlsError,
    BadImage,
    DeadlineExceeded,
    DigestMismatch,
    NotFound,
    RegistryDenied,
    StoreDamaged,
)
from als.fetch.source import RangeSource
from als.formats.index import Chunk, LayerIndex
from als.lazy.chunks import Progress
from als.lazy.engine import Engine
from als.lazy.partial import LazyFolder
from als.lazy.record import LazyRecord
from als.lazy.rest import RestLog, beside
from als.lazy.schedule import Want
from als.lazy.state import LayerState, Origin
from als.model.counting import Counters, Outcome, Saved

log = logging.getLogger("als.lazy")

REST_MAX = 64 << 20
"""The most bytes beside files that a unit may hold: headers, of which each can have some MiB."""
_SMALL = 1 << 20
_COMPLAIN_SECONDS = 5.0


class LazyLayer(LayerState):
    """See the module. Thread-safe. Made by :class:`als.lazy.store.LazyStore`.

    :param known: called with the sha256 of new objects.
    :param borrow: gives a chunk (name of its file, the chunk) that another lazy layer has, verified; None where none has it.
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
        borrow: Callable[[LazyLayer, bytes, Chunk], bytes | None],
    ) -> None:
        super().__init__(key, record, index, folder, engine, origin, known)
        self.rest: RestLog | None = None
        self._borrow = borrow
        self._complained = 0.0

    # -- for readers

    def has(self, name: bytes) -> bool:
        """Whether one of the layer's files has this name in the forest."""
        return self._chunks.find(name) is not None

    def identity(self, name: bytes) -> bytes:
        """What commits to every byte that `read` gives: the sha256 of a file that is a single chunk, else a digest of its
        chunks' digests; the name alone is what the index says, until all of the file was hashed.

        :raises NotFound: the layer has no such file.
        """
        self.size(name)
        number = self._chunks.find(name)
        assert number is not None
        # An empty file has no chunk.
        first = next(iter(self.index.chunks_within(number, 0, 1)), None)
        if first and first.sha256 and (first.sha256, first.size) == (self.index.sha256(number), self.index.size(number)):
            return b"file " + first.sha256
        # Apart from the other kind: a file could be made whose sha256 is this digest.
        return b"chunks " + self.index.chunks_digest(number)

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

    def read(self, name: bytes, offset: int, length: int, timeout: float, want: Want = Want.DEMAND) -> Future[bytes]:
        """Bytes of a file; fewer than asked for only at its end.

        :param timeout: seconds after which the future fails.
        :param want: how urgent it is; less than DEMAND where it is only foreseen that somebody will read this.
        :returns: it fails with NotFound (no such file), DeadlineExceeded, or another AlsError for why they do not come.
        """
        done: Future[bytes] = Future()
        begun = time.monotonic()
        outcome = Outcome.HERE
        try:
            length = max(0, min(length, self.size(name) - offset))
            waiter = self._wait(name, offset, length, timeout, want)
            if waiter is not None:
                done, outcome = waiter.future, Outcome.WAITED
            else:
                done.set_result(self._bytes(name, offset, length) if length else b"")
        except AlsError as error:
            done.set_exception(error)
        if want is Want.DEMAND:
            counters = self.engine.counters
            done.add_done_callback(lambda future: _count(counters, future, outcome, begun))
        return done

    def peek(self, name: bytes, offset: int, length: int) -> bytes | None:
        """Bytes of a file if all of them are here, and nothing is asked for if not.

        :raises StoreDamaged: they should be here, and are not.
        """
        number = self._chunks.find(name)
        if number is None or self._refused is not None or self._missing(number, offset, length):
            return None
        return self._bytes(name, offset, max(0, min(length, self.index.size(number) - offset)))

    def absent_units(self, name: bytes, offset: int, length: int) -> list[int]:
        """What has to be fetched for bytes of a file: units of the index. Nothing where the layer has no such file."""
        number = self._chunks.find(name)
        missing = self._missing(number, offset, length) if number is not None else ()
        return sorted({chunk.unit.number for _, chunk in missing})

    def paths(self, name: bytes) -> Iterator[bytes]:
        """Where the layer has a file, as its index writes it; hardlinks are left out."""
        return (self.index.entry(number).path for number in self._chunks.entries(name))

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
    def place(self) -> str:
        """Where its bytes come from: what answered last, or else the host of its reference."""
        return self._place or self.host

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
        saved = 0
        for sha256 in self.folder.link_all_known(self._chunks.absent_files()):
            number = self._chunks.find(sha256)
            if number is not None:
                self._chunks.set_whole(number)
                saved += self.index.size(number)
        self.engine.counters.saved(Saved.FILE, saved)
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

    def lend(self, name: bytes, wanted: Chunk) -> bytes | None:
        """A chunk of a file of this name, if it is here and the same; it is verified again."""
        number = self._chunks.find(name)
        if number is None:
            return None
        with self._lock:
            missing = self._chunks.missing(number, wanted.offset, wanted.size)
        if missing or not any(
            (each.offset, each.size, each.sha256) == (wanted.offset, wanted.size, wanted.sha256)
            for each in self.index.chunks_within(number, wanted.offset, 1)
        ):
            return None
        try:
            data = self._bytes(name, wanted.offset, wanted.size)
        except StoreDamaged:
            # It is being removed; then there is nothing to lend.
            return None
        return data if hashlib.sha256(data).digest() == wanted.sha256 else None

    def close(self) -> None:
        """Serve no more; what is here stays. Opened again, the layer goes on from there."""
        self.engine.remove(self)
        error = DeadlineExceeded("the layer is being closed", where=self.where)
        self._fail_all(error)
        self._settle(error)
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
        for unit in units:
            for row, number, chunk in self._chunks.in_unit(unit):
                # Of a file that is one chunk no other layer has a part.
                if self._chunks.stands(number) and not self._chunks.has(row) and chunk.size < self.index.size(number):
                    data = self._borrow(self, self._chunks.name(number), chunk)
                    if data is not None:
                        self._take(row, number, chunk, memoryview(data))
        with self._lock:
            return {unit for unit in units if self._chunks.needed(unit)}

    def source(self) -> RangeSource:
        return self.origin.source()

    def broken(self, source: RangeSource) -> None:
        self.origin.renew(source)

    def served(self, place: str, count: int = 0) -> None:
        self._place = place
        if count:
            self.meter.add(count, time.monotonic())

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
        self.last_trouble = (time.time(), error)
        self.engine.counters.troubled(type(error).__name__)
        if isinstance(error, RegistryDenied):
            # The credentials may have changed since they were read.
            self.origin.renew(None)
        wrong = isinstance(error, BadImage)
        with self._lock:
            troubled = self._waiting.waiting_for(units)
            failed = [waiter for waiter in troubled if waiter.troubled(units, error, wrong=wrong)]
        now = time.monotonic()
        if failed or now - self._complained > _COMPLAIN_SECONDS:
            self._complained = now
            log.warning("%s", error, extra=self.about("trouble"))
        for waiter in failed:
            self._give_up(waiter, error)


def _count(counters: Counters, future: Future[bytes], outcome: Outcome, begun: float) -> None:
    """A read was answered, now: `begun` is when it was asked, on the monotonic clock."""
    if not future.cancelled():
        ended = Outcome.FAILED if future.exception() is not None else outcome
        counters.read(ended, time.monotonic() - begun)
