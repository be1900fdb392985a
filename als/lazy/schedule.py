"""Which bytes of which blobs to ask for next. Pure: no I/O, no threads, and the time is passed in.

The unit of fetching is the index's (a gzip member, a zstd frame): it is here, in the air, or absent, and it is never in the air
twice, however many readers, layers and images want it. Every unit that somebody wants has one of the classes of :class:`Want`;
:meth:`Scheduler.next` makes range requests of them:

* A request begins with the oldest unit of the best class and takes in what follows it in the blob, as long as that is wanted
  no less. Stretches that nobody needs are bridged where a round trip would take longer than to receive them.
* What a reader waits for costs a round trip anyway, so that request goes on over absent neighbours for as many bytes as the
  link could have carried meanwhile. A small layer comes whole with its first read.
* Gates are few and small, and their time is that of all that follows. So they do not wait for others, nor do they take in more
  than what lies beside them.
* Readers wait for nothing but a bound on their own number. While one waits, no background request begins and those in the
  air are not read on. Where the unit is at the far end of a background request, that request is cut short before it.
* What failed goes back with its class, and its host (or only its blob) is left alone for a while that grows.
* A server without ranges gives whole blobs: then there is one request per blob, and everybody waits for that one.

Rejected: one queue per file, read in order (as stargz-snapshotter): sequential readers get a round trip for each chunk.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from als.lazy.flights import (
    ABSENT,
    HERE,
    IN_THE_AIR,
    QUEUED,
    SPOILED,
    UNWANTED,
    Blob,
    Fetch,
    Flight,
    Want,
    blocked_until,
    fresh,
)
from als.lazy.link import DEFAULT_TUNING, Link, Pause, Tuning

__all__ = ["Fetch", "Scheduler", "Want"]


class Scheduler:
    """See the module. Not thread-safe; what is not started here is nowhere remembered.

    :param jitter: for the pauses after failures.
    """

    def __init__(self, tuning: Tuning = DEFAULT_TUNING, jitter: random.Random | None = None) -> None:
        self._tuning = tuning
        self._jitter = jitter or random.Random()
        self._links: dict[str, Link] = {}
        self._blobs: dict[str, Blob] = {}
        self._flights: dict[int, Flight] = {}
        self._numbers = 0
        self._order = 0
        self._paused = False
        self._rate: float | None = None
        self._credit = 0.0
        self._credited = 0.0

    # -- what there is

    def add(self, key: str, host: str, starts: Sequence[int], ends: Sequence[int]) -> None:
        """A blob and where its units begin and end, all of them absent; the sequences must not change."""
        if key in self._blobs:
            raise ValueError(f"{key} is known already")
        count = len(starts)
        self._blobs[key] = Blob(key, self.link(host), starts, ends, bytearray(count), bytearray(b"\xff") * count)

    def remove(self, key: str) -> None:
        """Forget a blob, and what is in the air for it: nothing more of that is wanted."""
        blob = self._blobs.pop(key)
        for number in [number for number, flight in self._flights.items() if flight.fetch.blob == key]:
            self._count(blob, self._flights.pop(number), -1)

    def link(self, host: str) -> Link:
        """What is known of the way to a host."""
        return self._links.setdefault(host, Link(self._tuning, self._jitter))

    def absent(self, key: str, unit: int) -> bool:
        """Whether a unit is neither here nor in the air."""
        return self._blobs[key].state[unit] == ABSENT

    # -- what is wanted

    def want(self, key: str, units: Iterable[int], want: Want, now: float) -> None:
        """Have units fetched; who wanted one less before does so more now."""
        blob = self._blobs[key]
        for unit in units:
            if blob.state[unit] == HERE or blob.level[unit] <= want:
                continue
            if blob.state[unit] == ABSENT and want is not Want.BACKGROUND:
                self._queue(blob, unit, want)
            elif blob.state[unit] == IN_THE_AIR and want in (Want.DEMAND, Want.GATE):
                self._hurry(blob, unit, want)
            elif want is not Want.BACKGROUND:
                blob.level[unit] = want

    def unwant(self, key: str, units: Iterable[int]) -> None:
        """Nobody waits for these any more; what is in the air comes all the same."""
        blob = self._blobs.get(key)
        if blob is not None:
            for unit in units:
                blob.level[unit] = UNWANTED

    def fill(self, key: str, *, on: bool = True) -> None:
        """Fetch everything of a blob in the background, or no longer."""
        self._blobs[key].background = on

    def pause(self, paused: bool = True) -> None:
        """Begin nothing in the background, and hold what has begun."""
        self._paused = paused

    def limit(self, rate: float | None) -> None:
        """Let the background have at most so many bytes per second."""
        self._rate = rate
        self._credit = 0.0

    # -- what is to be done

    def next(self, now: float) -> list[Fetch]:
        """The requests to make now; each is to be ended with `ended` or `failed`."""
        self._earn(now)
        self._forgive(now)
        started: list[Fetch] = []
        for want in QUEUED:
            while (found := self._oldest(want, now)) is not None:
                blob, unit = found
                blob.queues[want].popleft()
                started.append(self._start(blob, unit, want, now))
        for blob in list(self._blobs.values()):
            while blob.background and self._may_start(blob, Want.BACKGROUND, now):
                first = blob.state.find(ABSENT, blob.cursor)
                blob.cursor = first if first >= 0 else len(blob.state)
                if first < 0:
                    break
                started.append(self._start(blob, first, Want.BACKGROUND, now))
                # Every blob in its turn.
                self._blobs[blob.key] = self._blobs.pop(blob.key)
        for link in self._links.values():
            free = self._rate is None and not self._paused and not link.urgent
            link.running(now, full=free and link.others >= link.depth)
        return started

    def wake(self, now: float) -> float | None:
        """When to call `next` again, if nothing happens before; None: not at all."""
        moments: list[float] = []
        for blob in self._blobs.values():
            wanted = [want for want in QUEUED if fresh(blob, want)]
            if blob.background and not self._paused and blob.state.find(ABSENT, blob.cursor) >= 0:
                wanted.append(Want.BACKGROUND)
            moments += [blocked_until(blob, want) for want in wanted]
            moments += [
                pause.eager_until
                for unit, pause in blob.spoiled.items()
                if blob.state[unit] == SPOILED and (blob.background or blob.level[unit] != UNWANTED)
            ]
        if moments and self._rate is not None and self._credit <= 0:
            moments.append(now - self._credit / self._rate + 0.01)
        later = [moment for moment in moments if moment > now]
        return min(later, default=None)

    def hold(self, number: int, now: float) -> float:
        """Seconds that a request in the air should wait before it takes its next bytes; 0: it may go on."""
        flight = self._flights.get(number)
        if flight is None or flight.want is not Want.BACKGROUND:
            return 0.0
        self._earn(now)
        pause = 0.0
        if self._rate is not None and self._credit < 0:
            pause = -self._credit / self._rate
        elif self._paused:
            return 0.1
        elif self._blobs[flight.fetch.blob].link.urgent:
            if flight.held_since is None:
                flight.held_since = now
            if now - flight.held_since < self._tuning.hold:
                return 0.02
        flight.held_since = None
        return min(pause, 0.5)

    # -- what happened

    def began(self, number: int, now: float) -> None:
        """The answer to a request begins."""
        flight = self._flights.get(number)
        if flight is not None and not flight.began:
            flight.began = True
            self._blobs[flight.fetch.blob].link.began(now - flight.asked)

    def received(self, number: int, count: int, now: float) -> bool:
        """So many bytes of an answer came; whether more of it is wanted."""
        flight = self._flights.get(number)
        if flight is None:
            return False
        flight.position += count
        if flight.want is Want.BACKGROUND and self._rate is not None:
            self._credit -= count
        self._blobs[flight.fetch.blob].link.received(count, now)
        return bool(flight.units)

    def arrived(self, key: str, unit: int) -> None:
        """A unit is here: it was fetched and found to be right, or is not needed any more."""
        blob = self._blobs.get(key)
        if blob is None:
            return
        if blob.state[unit] == IN_THE_AIR:
            for flight in self._flights.values():
                if flight.fetch.blob == key and flight.units.pop(unit, ABSENT) is None:
                    blob.pause.over()
                    blob.link.pause.over()
                    break
        blob.state[unit] = HERE
        blob.level[unit] = UNWANTED
        blob.spoiled.pop(unit, None)

    def spoiled(self, number: int, unit: int, now: float) -> None:
        """A unit came with a request and was not what it should be; it is asked for again after a while."""
        flight = self._flights.get(number)
        if flight is None or flight.units.pop(unit, ABSENT) is not None:
            return
        blob = self._blobs[flight.fetch.blob]
        blob.state[unit] = SPOILED
        blob.spoiled.setdefault(unit, Pause()).begin(now, self._tuning, self._jitter)

    def took_whole(self, number: int) -> None:
        """A request turned out to bring the whole blob from its beginning: whatever is absent is coming with it."""
        flight = self._flights.get(number)
        if flight is None:
            return
        blob = self._blobs[flight.fetch.blob]
        blob.ranged = False
        flight.position = 0
        for unit in range(len(blob.state)):
            if blob.state[unit] == ABSENT:
                blob.state[unit] = IN_THE_AIR
                flight.units[unit] = None
        flight.units = dict.fromkeys(sorted(flight.units))

    def owns(self, number: int, unit: int) -> bool:
        """Whether a unit is still to come with a request."""
        flight = self._flights.get(number)
        return flight is not None and unit in flight.units

    def coming(self, number: int) -> tuple[int, ...]:
        """The units that are still to come with a request, in order."""
        flight = self._flights.get(number)
        return tuple(flight.units) if flight is not None else ()

    def ended(self, number: int, now: float) -> None:
        """A request is over; units of it that did not arrive are absent again."""
        flight = self._flights.pop(number, None)
        if flight is None:
            return
        blob = self._blobs[flight.fetch.blob]
        self._count(blob, flight, -1)
        # Backwards, because each goes to the front.
        for unit in reversed(flight.units):
            self._release(blob, unit)

    def failed(self, number: int, now: float, *, host: bool) -> None:
        """A request failed, or what it brought was wrong.

        :param host: the reason lies with the host or the way there, and not with this blob.
        """
        flight = self._flights.get(number)
        if flight is not None:
            blob = self._blobs[flight.fetch.blob]
            if host:
                blob.link.failed(now)
            else:
                blob.pause.begin(now, self._tuning, self._jitter)
        self.ended(number, now)

    # -- within

    def _queue(self, blob: Blob, unit: int, want: Want) -> None:
        blob.level[unit] = want
        self._order += 1
        blob.queues[want].append((self._order, unit))

    def _hurry(self, blob: Blob, unit: int, want: Want) -> None:
        """A unit in the air is urgent: its request is as well, or is cut short and the unit gets its own."""
        flight = next(each for each in self._flights.values() if each.fetch.blob == blob.key and unit in each.units)
        before = blob.starts[unit] - flight.position
        far = not flight.fetch.whole and blob.ranged and before > max(blob.link.round_trip_bytes, self._tuning.extend_min)
        if flight.want > want and far:
            # Backwards, because each goes to the front.
            for each in [other for other in reversed(flight.units) if other >= unit]:
                del flight.units[each]
                self._release(blob, each)
            self._queue(blob, unit, want)
            return
        blob.level[unit] = want
        if want is Want.DEMAND:
            self._count(blob, flight, -1)
            flight.want = want
            self._count(blob, flight, +1)

    def _oldest(self, want: Want, now: float) -> tuple[Blob, int] | None:
        """The blob whose queue of this class has the oldest unit of all that may be asked for now."""
        best: tuple[int, Blob, int] | None = None
        for blob in self._blobs.values():
            queue = fresh(blob, want)
            if queue and (best is None or queue[0][0] < best[0]) and self._may_start(blob, want, now):
                best = (queue[0][0], blob, queue[0][1])
        return None if best is None else best[1:]

    def _may_start(self, blob: Blob, want: Want, now: float) -> bool:
        link = blob.link
        if now < blocked_until(blob, want) or (blob.in_the_air and not blob.ranged):
            return False
        if want is Want.DEMAND:
            return link.demands < self._tuning.demand_max
        if want is Want.GATE:
            return link.gates < self._tuning.gate_max
        if want is not Want.BACKGROUND:
            # The background may be held up for long; nothing better waits for it.
            return link.others - link.background < max(link.depth, self._tuning.ahead_least)
        held = self._paused or link.urgent or (self._rate is not None and self._credit <= 0)
        return link.others < link.depth and not held

    def _start(self, blob: Blob, unit: int, want: Want, now: float) -> Fetch:
        units = tuple(self._range(blob, unit, want) if blob.ranged else self._all(blob))
        offset = blob.starts[units[0]] if blob.ranged else 0
        self._numbers += 1
        length = blob.ends[units[-1]] - offset
        fetch = Fetch(self._numbers, blob.key, want, offset, length, units, not blob.ranged)
        for each in units:
            blob.state[each] = IN_THE_AIR
        flight = Flight(fetch, want, now, dict.fromkeys(units), offset)
        self._flights[fetch.number] = flight
        self._count(blob, flight, +1)
        return fetch

    def _range(self, blob: Blob, first: int, want: Want) -> Iterator[int]:
        """The units of one request that begins with `first`."""
        yield first
        link, most = blob.link, self._tuning.range_max
        if want is Want.BACKGROUND and self._rate is not None:
            most = max(self._tuning.extend_min, min(most, int(self._rate)))
        extension = link.extension if want in (Want.DEMAND, Want.AHEAD) else 0
        start, end = blob.starts[first], blob.ends[first]
        # In the background nobody waits for what it would save, and all gaps together can be most of the blob.
        bridge = {Want.GATE: link.bridge_gate, Want.PREFETCH: link.bridge_ahead, Want.BACKGROUND: 0}.get(want, link.bridge)
        least, reach = end, max(bridge, 1 << 12)
        passed: list[int] = []
        for unit in range(first + 1, len(blob.state)):
            if blob.starts[unit] - end > reach or blob.ends[unit] - start > most or blob.state[unit] == IN_THE_AIR:
                return
            if blob.state[unit] != ABSENT:
                continue
            passed.append(unit)
            wanted = want is Want.BACKGROUND or blob.level[unit] <= want
            if wanted or blob.ends[unit] - least <= extension:
                yield from passed
                passed.clear()
                end = blob.ends[unit]

    def _all(self, blob: Blob) -> Iterator[int]:
        return (unit for unit, state in enumerate(blob.state) if state == ABSENT)

    def _release(self, blob: Blob, unit: int) -> None:
        """A unit is not in the air any more, nor is it here."""
        blob.state[unit] = ABSENT
        blob.cursor = min(blob.cursor, unit)
        level = blob.level[unit]
        if level != UNWANTED:
            self._order += 1
            # Before all others: it has waited longest.
            blob.queues[level].appendleft((-self._order, unit))

    def _count(self, blob: Blob, flight: Flight, change: int) -> None:
        blob.in_the_air += change
        if flight.want is Want.DEMAND:
            blob.link.demands += change
        elif flight.want is Want.GATE:
            blob.link.gates += change
        else:
            blob.link.others += change
        if flight.want is Want.BACKGROUND:
            blob.link.background += change

    def _forgive(self, now: float) -> None:
        """Units that were wrong may be asked for again after their pause."""
        for blob in self._blobs.values():
            for unit, pause in blob.spoiled.items():
                if blob.state[unit] == SPOILED and now >= pause.eager_until:
                    self._release(blob, unit)

    def _earn(self, now: float) -> None:
        """Give the background what it may receive since the last time; it can save up a quarter of a second's worth."""
        if self._rate is not None:
            most = self._rate / 4 + self._tuning.extend_min
            self._credit = min(self._credit + (now - self._credited) * self._rate, most)
        self._credited = now
