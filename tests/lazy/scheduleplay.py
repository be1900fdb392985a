"""Random use of a scheduler, with the promises that hold at every step."""

from __future__ import annotations

import random

from als.lazy.link import Tuning
from als.lazy.schedule import Fetch, Scheduler, Want
from tests.lazy.modellink import HOST, KEY, Blob


def scheduler_of(blob: Blob, tuning: Tuning | None = None) -> Scheduler:
    scheduler = Scheduler(tuning or Tuning(), random.Random(1))
    scheduler.add(KEY, HOST, blob.starts, blob.ends)
    return scheduler


def finish(scheduler: Scheduler, fetch: Fetch, now: float) -> None:
    for unit in fetch.units:
        scheduler.arrived(KEY, unit)
    scheduler.ended(fetch.number, now)


class Play:
    """A blob of units of these lengths; each step is one thing that readers, server or clock may do."""

    def __init__(self, lengths: list[int], gap: int) -> None:
        self.blob = Blob(lengths, gap)
        self.scheduler = scheduler_of(self.blob)
        self.flying: dict[int, Fetch] = {}
        self.here: set[int] = set()
        self.demanded: set[int] = set()
        self.now = 1000.0
        self._count = len(lengths)

    def step(self, what: str, which: int) -> None:
        """One thing happens; `which` chooses the unit or the fetch."""
        self.now += 0.01
        unit = which % self._count
        number = sorted(self.flying)[which % len(self.flying)] if self.flying else None
        if what == "demand":
            self.scheduler.want(KEY, [unit], Want.DEMAND, self.now)
            self.demanded |= {unit} - self.here
        elif what in ("gate", "ahead", "prefetch"):
            self.scheduler.want(KEY, [unit], Want[what.upper()], self.now)
        elif what == "fill":
            self.scheduler.fill(KEY, on=which % 2 == 0)
        elif what == "unwant":
            self.scheduler.unwant(KEY, [unit])
            self.demanded.discard(unit)
        elif what == "next":
            self._start()
        elif number is not None:
            self._go_on(what, which, number)

    def drain(self) -> None:
        """Everything that is asked for comes, for a long time."""
        for _ in range(200):
            self.now += 20
            self._start()
            for number in sorted(self.flying):
                self._take(number, self._count)
                self.scheduler.ended(number, self.now)
            self.flying.clear()

    def _go_on(self, what: str, which: int, number: int) -> None:
        """Something happens to a fetch that is in the air."""
        if what == "spoil":
            for unit in self.scheduler.coming(number)[:1]:
                self.scheduler.spoiled(number, unit, self.now)
            return
        if what == "whole":
            self.scheduler.took_whole(number)
            return
        fetch = self.flying.pop(number)
        self._take(number, len(fetch.units) if what == "finish" else which % (len(fetch.units) + 1))
        if what.startswith("fail"):
            self.scheduler.failed(number, self.now, host=what == "fail host")
        else:
            self.scheduler.ended(number, self.now)

    def _start(self) -> None:
        for fetch in self.scheduler.next(self.now):
            assert fetch.number not in self.flying
            assert list(fetch.units) == sorted(set(fetch.units))
            assert self.here.isdisjoint(fetch.units)
            for other in self.flying:
                assert set(self.scheduler.coming(other)).isdisjoint(fetch.units), "a unit is in the air twice"
            assert fetch.offset <= self.blob.starts[fetch.units[0]]
            assert fetch.offset + fetch.length == self.blob.ends[fetch.units[-1]]
            self.flying[fetch.number] = fetch

    def _take(self, number: int, count: int) -> None:
        for unit in self.scheduler.coming(number)[:count]:
            assert unit not in self.here, "a unit was fetched twice"
            self.here.add(unit)
            self.demanded.discard(unit)
            self.scheduler.arrived(KEY, unit)
