"""A link and a server that exist in numbers only, driven by the scheduler under test."""

from __future__ import annotations

from dataclasses import dataclass, field

from als.lazy.schedule import Fetch, Scheduler

KEY = "blob"
HOST = "host"


@dataclass
class Blob:
    """Units of given lengths, one after the other with gaps in between."""

    lengths: list[int]
    gap: int = 0
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        position = 0
        for length in self.lengths:
            position += self.gap
            self.starts.append(position)
            position += length
            self.ends.append(position)


@dataclass
class _Transfer:
    fetch: Fetch
    asked: float
    done: float = 0.0


class ModelLink:
    """Time passes in steps; requests share `capacity` bytes per second, none has more than `each`.

    :param rtt: seconds until the first byte of an answer.
    """

    def __init__(self, scheduler: Scheduler, blob: Blob, *, capacity: float, rtt: float, each: float = 1e12) -> None:
        self.scheduler = scheduler
        self.blob = blob
        self.capacity = capacity
        self.rtt = rtt
        self.each = each
        self.now = 100.0
        self.moved = 0
        self.arrivals: dict[int, float] = {}
        self.fetches: list[Fetch] = []
        self.most_at_once = 0
        self._transfers: dict[int, _Transfer] = {}

    def start(self) -> None:
        """Make the requests that the scheduler wants made."""
        for fetch in self.scheduler.next(self.now):
            self.fetches.append(fetch)
            self._transfers[fetch.number] = _Transfer(fetch, self.now)
        self.most_at_once = max(self.most_at_once, len(self._transfers))

    def step(self, seconds: float = 0.002) -> None:
        self.start()
        self.now += seconds
        open_ = [
            each
            for each in self._transfers.values()
            if self.now - each.asked >= self.rtt and not self.scheduler.hold(each.fetch.number, self.now)
        ]
        share = min(self.capacity / len(open_), self.each) * seconds if open_ else 0.0
        for each in open_:
            self._advance(each, share)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step()

    def until(self, unit: int, limit: float = 60.0) -> float:
        """Seconds until a unit is here."""
        start = self.now
        while unit not in self.arrivals:
            assert self.now - start < limit, f"unit {unit} does not come"
            self.step()
        return self.now - start

    def fail(self, *, host: bool) -> None:
        """Everything in the air fails."""
        for number in list(self._transfers):
            del self._transfers[number]
            self.scheduler.failed(number, self.now, host=host)

    def _advance(self, each: _Transfer, share: float) -> None:
        number, fetch = each.fetch.number, each.fetch
        self.scheduler.began(number, self.now)
        before, each.done = each.done, min(each.done + share, fetch.length)
        count = int(each.done) - int(before)
        self.moved += count
        wanted = self.scheduler.received(number, count, self.now)
        for unit in self.scheduler.coming(number):
            if self.blob.ends[unit] <= fetch.offset + int(each.done):
                assert unit not in self.arrivals, f"unit {unit} came twice"
                self.arrivals[unit] = self.now
                self.scheduler.arrived(KEY, unit)
        if not wanted or each.done >= fetch.length:
            del self._transfers[number]
            self.scheduler.ended(number, self.now)


def modelled(lengths: list[int], *, gap: int = 0, capacity: float = 25e6, rtt: float = 0.02, each: float = 1e12) -> ModelLink:
    """A scheduler that knows one blob, and a link to its host."""
    scheduler = Scheduler()
    blob = Blob(lengths, gap)
    scheduler.add(KEY, HOST, blob.starts, blob.ends)
    return ModelLink(scheduler, blob, capacity=capacity, rtt=rtt, each=each)
