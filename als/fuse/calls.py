"""Calls of the backend, each under a deadline and all under a limit: blocking ones in threads, and futures.

The backend keeps deadlines of its own; those here are the guard that holds when it does not. A thread cannot be stopped:
one that overran is left to itself, keeps its place in its limiter until it ends, and its result is discarded.

pyfuse3 runs each request in a task and reads no further ones once `max_tasks` of them wait (``_session_loop`` in
``internal.pxi``). So the number of requests that may wait for the backend is bounded below that, and further ones fail at
once: whatever the backend does, a stat of the mount point is answered.

Reads of lazy files have a bound of their own, or a registry that stalls would keep names from being looked up. Letting them
queue here would be of no use, since one that queues holds its task; the kernel queues them (:mod:`als.fuse.connection`).
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from als.errors import DeadlineExceeded

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each kind of operation may take, in seconds, whatever the backend says."""

    lookup: float = 900.0
    """Publishing a layer, which for a plain layer is its download."""
    count: float = 30.0
    """Taking or dropping a reference, or closing a file."""
    open: float = 900.0
    """Opening a blob: it may have to be downloaded again."""
    read: float = 300.0
    """One read of a blob."""
    lazy_read: float = 960.0
    """One read of a lazy layer's file; more than the backend's own deadline, which is that of lookups, and tells why."""
    stop: float = 40.0
    """Letting requests end when the daemon stops; more than `count`, since what is counted is awaited."""


class Kind(enum.Enum):
    """Requests that are bounded together."""

    CALL = "requests"
    LAZY_READ = "reads of lazy files"


class _Call(Generic[T]):
    """A function whose result is discarded if nobody is there any more to take it."""

    def __init__(self, work: Callable[[], T], discard: Callable[[T], None] | None) -> None:
        self._work = work
        self._discard = discard
        self._lock = threading.Lock()
        self._over = False
        self._undelivered: list[T] = []

    def __call__(self) -> T:
        result = self._work()
        with self._lock:
            late = self._over
            if not late:
                self._undelivered.append(result)
        if late and self._discard is not None:
            self._discard(result)
        return result

    def end(self, *, delivered: bool) -> None:
        """Nobody waits any more; `delivered` tells whether the result was taken."""
        with self._lock:
            self._over = True
            left, self._undelivered = self._undelivered, []
        if not delivered and self._discard is not None:
            for result in left:
                self._discard(result)


class Calls:
    """All calls that are under way, and all requests that wait for one."""

    def __init__(self, *, max_waiting: int, max_lazy_reads: int = 0) -> None:
        self._most = {Kind.CALL: max_waiting, Kind.LAZY_READ: max_lazy_reads}
        self._waiting = dict.fromkeys(Kind, 0)
        self._stopping = False
        self._scopes: set[trio.CancelScope] = set()
        self._idle = trio.Event()
        self._idle.set()

    @contextmanager
    def request(self, where: str, kind: Kind = Kind.CALL) -> Iterator[None]:
        """Around the handling of a request that may have to wait.

        :raises DeadlineExceeded: too many requests of its kind wait already.
        """
        if self._waiting[kind] >= self._most[kind]:
            raise DeadlineExceeded(f"{self._waiting[kind]} {kind.value} are waiting already", where=where)
        if not any(self._waiting.values()):
            self._idle = trio.Event()
        self._waiting[kind] += 1
        try:
            yield
        finally:
            self._waiting[kind] -= 1
            if not any(self._waiting.values()):
                self._idle.set()

    async def run(
        self,
        work: Callable[[], T],
        *,
        limiter: trio.CapacityLimiter,
        seconds: float,
        where: str,
        discard: Callable[[T], None] | None = None,
        must_finish: bool = False,
    ) -> T:
        """Run `work` in a thread and return what it returns.

        :param limiter: bounds the threads of this kind; waiting for a place counts against `seconds`.
        :param where: the thing it is about, for the error.
        :param discard: what to do with a result that came too late, such as closing it.
        :param must_finish: begin it, let it go on even while the daemon stops, and wait for it even if the request is given up.
        :raises DeadlineExceeded: it took too long, or the daemon stops.
        """
        if self._stopping and not must_finish:
            raise DeadlineExceeded("als is stopping", where=where)
        call = _Call(work, discard)
        delivered = False
        scope = trio.CancelScope(deadline=trio.current_time() + seconds, shield=must_finish)
        if not must_finish:
            self._scopes.add(scope)
        try:
            with scope:
                result = await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter)
                delivered = True
                return result
        finally:
            self._scopes.discard(scope)
            call.end(delivered=delivered)
        if self._stopping:
            raise DeadlineExceeded("als is stopping", where=where)
        raise DeadlineExceeded(f"no answer within {seconds:g} s", where=where)

    async def wait(self, future: Future[T], *, seconds: float, where: str) -> T:
        """The future's result; no thread waits for it. It is cancelled if it takes too long.

        :raises DeadlineExceeded: it took too long, the daemon stops, or the backend gave it up.
        """
        if not future.done():
            await self._until_done(future, seconds)
        if future.cancelled():
            raise DeadlineExceeded("given up", where=where)
        if not future.cancel():
            return future.result()
        raise DeadlineExceeded("als is stopping" if self._stopping else f"no answer within {seconds:g} s", where=where)

    async def _until_done(self, future: Future[T], seconds: float) -> None:
        if self._stopping:
            return
        done, token = trio.Event(), trio.lowlevel.current_trio_token()

        def wake(_: Future[T]) -> None:
            # The loop is over if nobody waits any more.
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        self._scopes.add(scope)
        try:
            with scope:
                future.add_done_callback(wake)
                await done.wait()
        finally:
            self._scopes.discard(scope)

    async def stop(self, seconds: float) -> bool:
        """Give up all calls except those that must finish, and let no such begin again.

        :return: whether all requests were answered within `seconds`.
        """
        self._stopping = True
        for scope in self._scopes:
            scope.cancel()
        with trio.move_on_after(seconds):
            await self._idle.wait()
        return self._idle.is_set()
