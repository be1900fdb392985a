"""Carries out what the scheduler decides: requests run in threads, and what comes is decompressed and handed to its layer.

::

    readers --want--> Scheduler --Fetch--> flight thread --range--> fetch worker (network)
                      under one lock          |    --units--> inflate worker (decompresses)
                                              +--deliver--> Target: verifies, keeps, wakes its readers

A thread per request in the air is used and not an event loop: hashing and writing happen there, and both leave Python alone.
Readers have no thread: they get a future. One more thread, the pilot, starts requests and lets deadlines pass.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from als.errors import (
    AlsError,
    DeadlineExceeded,
    RegistryError,
    RegistryUnavailable,
    StoreError,
    WorkerError,
)
from als.fetch.source import RangeStream
from als.lazy.cutter import Cutter
from als.lazy.link import DEFAULT_TUNING, Link, Tuning
from als.lazy.schedule import Fetch, Scheduler, Want
from als.lazy.target import Target
from als.model.counting import Counters, NotCounted
from als.worker.client import Workers
from als.worker.inflate import Compressed, InflatePool, Inflater

log = logging.getLogger("als.lazy")

_BATCH = 1 << 18
_IDLE = 60.0


class Engine:
    """All fetching of one process. Thread-safe; a context manager.

    :param stall: seconds without a byte after which a request is given up.
    :param counters: told what is fetched and read of its layers.
    """

    def __init__(
        self,
        workers: Workers,
        tuning: Tuning = DEFAULT_TUNING,
        *,
        stall: float = 8.0,
        counters: Counters | None = None,
    ) -> None:
        self.stall = stall
        self.workers = workers
        self.counters: Counters = counters or NotCounted()
        self._scheduler = Scheduler(tuning)
        self._targets: dict[str, Target] = {}
        self._changed = threading.Condition()
        self._deadlines: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._closed = threading.Event()
        self._pool = InflatePool(workers)
        self._flights = ThreadPoolExecutor(tuning.demand_max + tuning.depth_max * 4, thread_name_prefix="lazy")
        self._chores = ThreadPoolExecutor(2, thread_name_prefix="lazy chore")
        self._steps = ThreadPoolExecutor(1, thread_name_prefix="lazy step")
        self._pilot = threading.Thread(target=self._steer, name="lazy pilot", daemon=True)
        self._pilot.start()

    # -- what is wanted

    def add(self, target: Target, here: Iterable[int]) -> None:
        """Units of a target may be wanted from now on; those in `here` are not needed."""
        with self._changed:
            self._scheduler.add(target.key, target.host, target.starts, target.ends)
            self._targets[target.key] = target
            for unit in here:
                self._scheduler.arrived(target.key, unit)

    def remove(self, target: Target) -> None:
        """Nothing more is wanted for it; what is in the air is given up."""
        with self._changed:
            if self._targets.pop(target.key, None) is not None:
                self._scheduler.remove(target.key)
            self._changed.notify_all()

    def want(self, target: Target, units: Iterable[int], want: Want) -> None:
        """Have units fetched."""
        self.want_all([(target, units, want)])

    def want_all(self, wanted: Iterable[tuple[Target, Iterable[int], Want]]) -> None:
        """Have units of several targets fetched, in this order; requests are made when all of them are known."""
        with self._changed:
            for target, units, want in wanted:
                if target.key in self._targets:
                    self._scheduler.want(target.key, units, want, time.monotonic())
            self._changed.notify_all()

    def unwant(self, target: Target, units: Iterable[int]) -> None:
        """Nobody waits for these any more."""
        with self._changed:
            self._scheduler.unwant(target.key, units)

    def arrived(self, target: Target, units: Iterable[int]) -> None:
        """These are not needed any more."""
        with self._changed:
            for unit in units:
                self._scheduler.arrived(target.key, unit)
            self._changed.notify_all()

    def fill(self, target: Target, *, on: bool = True) -> None:
        """Fetch all of it in the background, or no longer."""
        with self._changed:
            if target.key in self._targets:
                self._scheduler.fill(target.key, on=on)
                self._changed.notify_all()

    def pause(self, paused: bool = True) -> None:
        """Hold the background of all targets, or let it go on."""
        with self._changed:
            self._scheduler.pause(paused)
            self._changed.notify_all()

    def limit(self, rate: float | None) -> None:
        """Bytes per second that the background may have; None: what it gets."""
        with self._changed:
            self._scheduler.limit(rate)
            self._changed.notify_all()

    def at(self, deadline: float, call: Callable[[], None]) -> None:
        """Call something at a time of the monotonic clock; it must not block."""
        with self._changed:
            heapq.heappush(self._deadlines, (deadline, next(self._order), call))
            if self._deadlines[0][2] is call:
                self._changed.notify_all()

    def run(self, work: Callable[[], None], *, quick: bool = False) -> None:
        """Do something in a thread of the engine.

        :param quick: it does not wait for anything, nor is it to wait for work that does (for the disk, most of all).
        """
        with contextlib.suppress(RuntimeError):
            # It is being closed: then nobody waits for the work.
            (self._steps if quick else self._chores).submit(self._guarded, work).add_done_callback(_report)

    @contextlib.contextmanager
    def inflater(self, *, fresh: bool = False) -> Iterator[Inflater]:
        """An inflate worker for a while; `fresh`: one that has seen nobody else's bytes."""
        with self._pool.lent(fresh=fresh) as found:
            yield found

    def link(self, host: str) -> Link:
        """What is known of the way to a host, for reports."""
        with self._changed:
            return self._scheduler.link(host)

    def check(self) -> None:
        """For waits elsewhere: raise once the engine is being closed."""
        if self._closed.is_set():
            raise DeadlineExceeded("als is being stopped")

    def awaits(self, number: int) -> bool:
        """Whether anything is still to come with a request."""
        with self._changed:
            return bool(self._scheduler.coming(number))

    def close(self) -> None:
        """Give up what is in the air, and end all threads."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
        self._pilot.join()
        self._flights.shutdown()
        self._chores.shutdown()
        self._steps.shutdown()
        self._pool.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the pilot

    def _steer(self) -> None:
        while not self._closed.is_set():
            with self._changed:
                now = time.monotonic()
                fetches = self._scheduler.next(now)
                due: list[Callable[[], None]] = []
                while self._deadlines and self._deadlines[0][0] <= now:
                    due.append(heapq.heappop(self._deadlines)[2])
                if not fetches and not due:
                    moments = [self._deadlines[0][0]] if self._deadlines else []
                    wake = self._scheduler.wake(now)
                    moments += [wake] if wake is not None else []
                    self._changed.wait(max(0.001, min(moments, default=now + _IDLE) - now))
                    continue
                flights = [(fetch, self._targets[fetch.blob]) for fetch in fetches]
            for fetch, target in flights:
                self._flights.submit(self._fly, fetch, target).add_done_callback(_report)
            for call in due:
                call()

    # -- flights

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except AlsError as error:
            log.warning("%s", error)

    def _fly(self, fetch: Fetch, target: Target) -> None:
        """Make one request. Whatever goes wrong, the scheduler is told that it is over."""
        try:
            needed = target.still_needed(fetch.units)
            self._told(target, [unit for unit in fetch.units if unit not in needed])
            with self._changed:
                units = [unit for unit in self._scheduler.coming(fetch.number) if unit in needed]
            if units:
                self._request(fetch, target, units)
        except AlsError as error:
            self._failed(fetch, target, error)
        except OSError as error:
            self._failed(fetch, target, StoreError(f"a lazy layer could not be read: {error}", where=target.where))
        finally:
            with self._changed:
                self._scheduler.ended(fetch.number, time.monotonic())
                self._changed.notify_all()

    def _request(self, fetch: Fetch, target: Target, units: Sequence[int]) -> None:
        offset = 0 if fetch.whole else target.starts[units[0]]
        length = target.ends[units[-1]] - offset
        source = target.source()
        watch = _Watch(self, fetch)
        place = ""
        try:
            with contextlib.closing(source.range(target.digest, offset, length, watch.check)) as stream:
                place = stream.place
                if stream.size is not None and stream.size != target.blob_size:
                    raise RegistryError(f"the blob has {stream.size} bytes there and {target.blob_size} in the manifest")
                if stream.start != (0 if stream.whole else offset):
                    raise RegistryError(f"bytes from {stream.start} on came instead")
                target.served(place)
                self._take(fetch, target, stream, watch)
        except _Unwanted:
            return
        except AlsError as error:
            if isinstance(error, WorkerError):
                target.broken(source)
            span = f"bytes {offset} to {offset + length - 1} of {target.digest}" + (f" from {place}" if place else "")
            told = str(target.digest) in error.where and "bytes" in error.where
            where = error.where if told else f"{span} {error.where}".rstrip()
            raise type(error)(error.what, where=f"{target.where} {where}", hint=error.hint) from error

    def _take(self, fetch: Fetch, target: Target, stream: RangeStream, watch: _Watch) -> None:
        with self._changed:
            self._scheduler.began(fetch.number, time.monotonic())
            if stream.whole:
                self._scheduler.took_whole(fetch.number)
            units = self._scheduler.coming(fetch.number)
        cutter = Cutter(target.starts, target.ends, stream.start, units)
        batch: dict[int, bytes] = {}
        with self.inflater() as inflater:
            for piece in stream.pieces():
                with self._changed:
                    wanted = self._scheduler.received(fetch.number, len(piece), time.monotonic())
                target.served(stream.place, len(piece))
                if not wanted:
                    return
                batch.update(cutter.feed(piece))
                gather = fetch.want is Want.BACKGROUND and sum(map(len, batch.values())) < _BATCH
                if batch and not gather:
                    self._unpack(fetch, target, inflater, batch, stream.place, watch.begun)
                    batch = {}
                self._hold(fetch)
                watch.moved()
            if batch:
                self._unpack(fetch, target, inflater, batch, stream.place, watch.begun)
        with self._changed:
            if self._scheduler.coming(fetch.number):
                raise RegistryUnavailable(f"the answer ended early, at byte {cutter.position}")

    def _hold(self, fetch: Fetch) -> None:
        while not self._closed.is_set():
            with self._changed:
                pause = self._scheduler.hold(fetch.number, time.monotonic())
            if not pause:
                return
            self._closed.wait(pause)

    def _unpack(
        self, fetch: Fetch, target: Target, inflater: Inflater, batch: Mapping[int, bytes], place: str, begun: float
    ) -> None:
        """Decompress units and hand them over. What is wrong with one is no reason not to take the others."""
        with self._changed:
            units = [unit for unit in batch if self._scheduler.owns(fetch.number, unit)]
        packed = [Compressed(batch[unit], target.most(unit)) for unit in units]
        found: dict[int, bytearray] = {}
        wrong: dict[int, AlsError] = {}
        for unit, each in zip(units, inflater.inflate(target.compression, packed, whole=target.whole), strict=True):
            if isinstance(each, AlsError):
                wrong[unit] = each
            else:
                found[unit] = each
        wrong |= target.deliver(found)
        good = [unit for unit in found if unit not in wrong]
        self._told(target, good)
        self.counters.fetched(fetch.want.name.lower(), len(good), time.monotonic() - begun)
        for unit, error in wrong.items():
            with self._changed:
                self._scheduler.spoiled(fetch.number, unit, time.monotonic())
                self._changed.notify_all()
            span = f"bytes {target.starts[unit]} to {target.ends[unit] - 1} of {target.digest} from {place}"
            what = f"{error.what} ({error.where})" if error.where else error.what
            target.trouble([unit], type(error)(what, where=f"{target.where} {span}", hint=error.hint))

    def _told(self, target: Target, units: Sequence[int]) -> None:
        with self._changed:
            for unit in units:
                self._scheduler.arrived(target.key, unit)

    def _failed(self, fetch: Fetch, target: Target, error: AlsError) -> None:
        with self._changed:
            units = self._scheduler.coming(fetch.number)
            host = isinstance(error, RegistryUnavailable | DeadlineExceeded | WorkerError)
            self._scheduler.failed(fetch.number, time.monotonic(), host=host)
        if units and not self._closed.is_set():
            target.trouble(units, error)


def _report(future: Future[None]) -> None:
    error = future.exception()
    if error is not None:
        log.error("a thread of the lazy engine failed", exc_info=error)


class _Unwanted(AlsError):
    """A request was overtaken by events."""


class _Watch:
    """Ends the wait for bytes that nobody wants any more, or that do not come."""

    def __init__(self, engine: Engine, fetch: Fetch) -> None:
        self._engine = engine
        self._number = fetch.number
        self.begun = self._last = time.monotonic()

    def moved(self) -> None:
        """Something came, or was not to be waited for."""
        self._last = time.monotonic()

    def check(self) -> None:
        """Called while nothing comes."""
        self._engine.check()
        if not self._engine.awaits(self._number):
            raise _Unwanted("nobody wants it any more")
        if time.monotonic() - self._last > self._engine.stall:
            raise RegistryUnavailable(f"no byte came for {self._engine.stall:.0f} seconds")
