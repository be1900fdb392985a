"""Reads that wait for chunks. Pure, but for the futures; who uses it has a lock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress

from als.errors import AlsError, NotFound, RegistryDenied, StoreError
from als.lazy.flights import Want

WRONG_MAX = 3
"""How often the same unit may come wrong before a reader is told so."""


class Waiter:
    """One read.

    :param missing: rows of the chunks that it waits for, and their units.
    :param deadline: on the monotonic clock.
    :param want: how urgent it is.
    """

    def __init__(
        self, name: bytes, offset: int, length: int, missing: Mapping[int, int], deadline: float, want: Want = Want.DEMAND
    ) -> None:
        self.name = name
        self.offset = offset
        self.length = length
        self.missing = dict(missing)
        self.deadline = deadline
        self.want = want
        self.future: Future[bytes] = Future()
        self.error: AlsError | None = None
        """Why the last attempt to get something of it failed."""
        self._wrong: dict[int, int] = {}

    def troubled(self, units: Iterable[int], error: AlsError, *, wrong: bool) -> bool:
        """An attempt failed; whether it is to wait no longer."""
        denied = isinstance(error, RegistryDenied) and isinstance(self.error, RegistryDenied)
        self.error = error
        for unit in units if wrong else ():
            self._wrong[unit] = self._wrong.get(unit, 0) + 1
        return denied or isinstance(error, NotFound | StoreError) or max(self._wrong.values(), default=0) >= WRONG_MAX

    def fail(self, error: AlsError) -> None:
        """Tell the reader, unless it has left."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Waiters:
    """All reads of a layer that wait."""

    def __init__(self) -> None:
        self._rows: dict[int, list[Waiter]] = {}

    def add(self, waiter: Waiter) -> None:
        for row in waiter.missing:
            self._rows.setdefault(row, []).append(waiter)

    def arrived(self, rows: Iterable[int]) -> list[Waiter]:
        """These chunks are here; returns who has all now."""
        ready: list[Waiter] = []
        if self._rows:
            for row in rows:
                for waiter in self._rows.pop(row, ()):
                    waiter.missing.pop(row, None)
                    if not waiter.missing:
                        ready.append(waiter)
        return ready

    def waiting_for(self, units: Collection[int]) -> list[Waiter]:
        """Who waits for any of these units."""
        wanted = set(units)
        every = {id(each): each for waiters in self._rows.values() for each in waiters}
        return [each for each in every.values() if not wanted.isdisjoint(each.missing.values())]

    def drop(self, waiter: Waiter) -> set[int] | None:
        """It waits no longer; returns the units that nobody waits for any more, None if it has been answered already."""
        if not waiter.missing:
            return None
        units: set[int] = set()
        for row, unit in waiter.missing.items():
            waiters = self._rows.get(row, [])
            with suppress(ValueError):
                waiters.remove(waiter)
            if not waiters:
                self._rows.pop(row, None)
                units.add(unit)
        waiter.missing.clear()
        return units - {unit for waiters in self._rows.values() for each in waiters for unit in each.missing.values()}

    def clear(self) -> list[Waiter]:
        """Nobody waits any longer; returns who did."""
        every = {id(each): each for waiters in self._rows.values() for each in waiters}
        self._rows.clear()
        for waiter in every.values():
            waiter.missing.clear()
        return list(every.values())
