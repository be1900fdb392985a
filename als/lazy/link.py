"""What is known of the way to one host: how long an answer takes, how fast bytes come, how many requests at once pay off.

Pure: no clock is read and nothing is sent here; :class:`als.lazy.schedule.Scheduler` tells what happened when.

**Depth.** One more request at a time is tried, as long as each makes the whole at least a tenth faster; the first that does not
is taken back, and after `HOLD` further measurements it is tried anew. A host that is overtaxed (429, errors, silence) gets
half.
A measurement counts only while the depth is used up, and the first after a change is thrown away: connections start slowly.

**Rate.** The bytes per second that came while requests were running, as a maximum that fades: a reader that asks for little
does not make the link look slow.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

GAIN = 1.1
"""How much faster the whole must get for a deeper queue to be kept."""
HOLD = 20
"""Measurements between two attempts with a deeper queue."""
_FADE = 0.05
_LEAST_SAMPLE = 0.05


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the network is used. Times in seconds, sizes in bytes."""

    first_byte: float = 0.05
    """Taken for the time until an answer begins, before one was measured."""
    rate: float = 4e6
    """Taken for the link's bytes per second before they were measured."""
    extend_min: int = 64 << 10
    extend_max: int = 2 << 20
    """Bounds on how much a demand read asks for beyond what it needs."""
    range_max: int = 4 << 20
    """The most that one request asks for, a single unit aside."""
    bridge_max: int = 1 << 20
    """The most bytes that are already here and are fetched again to save a round trip."""
    depth_start: int = 3
    depth_max: int = 8
    """Requests at once to one host, demand and gates aside."""
    ahead_least: int = 6
    """The same at least for what is fetched ahead: of many small files, which depend on the round trip and not on the rate."""
    gate_max: int = 8
    """The same for gates: a program's libraries are looked into all at once."""
    demand_max: int = 16
    """The same for demand, which does not wait for the others."""
    epoch: float = 0.4
    """How long one depth is measured at least."""
    backoff: float = 0.25
    """The pause after the first failure; twice as long after each further one."""
    backoff_max: float = 15.0
    backoff_demand: float = 2.0
    """The longest pause where a reader waits."""
    hold: float = 2.0
    """How long the background waits at most, at a time, for demand to have the link alone."""


DEFAULT_TUNING = Tuning()


class Pause:
    """How long to leave something alone that has failed, ever longer."""

    def __init__(self) -> None:
        self.until = 0.0
        self.eager_until = 0.0
        """The same for readers who wait: they are not made to wait much longer than it may take to recover."""
        self._failures = 0

    def begin(self, now: float, tuning: Tuning, jitter: random.Random) -> None:
        """It failed; half of the pause is random, as in :mod:`als.registry.retry`.

        What was in the air at the same time fails for the same reason, and counts once.
        """
        if now < self.eager_until:
            return
        longest = min(tuning.backoff * float(1 << min(self._failures, 30)), tuning.backoff_max)
        pause = longest * jitter.uniform(0.5, 1.0)
        self._failures += 1
        self.until, self.eager_until = now + pause, now + min(pause, tuning.backoff_demand)

    def over(self) -> None:
        """It works again."""
        self._failures = 0


class Link:
    """The way to one host."""

    def __init__(self, tuning: Tuning, jitter: random.Random) -> None:
        self._tuning = tuning
        self._jitter = jitter
        self.first_byte = tuning.first_byte
        self.rate = tuning.rate
        self.depth = tuning.depth_start
        self.pause = Pause()
        self.demands = 0
        """Requests in the air because a reader waits."""
        self.gates = 0
        """Those that will tell what else is needed."""
        self.others = 0
        """All other requests in the air."""
        self.background = 0
        """Those of them that nobody waits for at all."""
        self._window: tuple[float, int] | None = None
        self._epoch: tuple[float, int] | None = None
        self._settling = True
        self._base = 0.0
        self._hold = 0

    @property
    def urgent(self) -> int:
        """Requests in the air whose time counts, and not their bytes."""
        return self.demands + self.gates

    @property
    def round_trip_bytes(self) -> int:
        """The bytes that could have come while nothing but a round trip happens: the bandwidth-delay product."""
        return int(self.first_byte * self.rate)

    @property
    def extension(self) -> int:
        """How many bytes a demand read may ask for beyond its own: they cost no more than its round trip does anyway."""
        return max(self._tuning.extend_min, min(self.round_trip_bytes, self._tuning.extend_max))

    @property
    def bridge(self) -> int:
        """The longest stretch of unneeded bytes that is quicker to fetch than to leave out."""
        return min(self.round_trip_bytes, self._tuning.bridge_max)

    @property
    def bridge_ahead(self) -> int:
        """The same for what is fetched ahead: the more requests run side by side, the less one more costs."""
        return self.bridge // self.depth

    @property
    def bridge_gate(self) -> int:
        """The same for gates, of which each is to be quick."""
        return min(self.bridge, self._tuning.extend_min)

    def began(self, seconds: float) -> None:
        """The first byte of an answer came so long after it was asked for."""
        # An answer also waits for the bytes of others, so the shortest time is that of the way; it fades, for ways change.
        self.first_byte = min(seconds, self.first_byte + _FADE * (seconds - self.first_byte))

    def received(self, count: int, now: float) -> None:
        """So many bytes came, of any request."""
        if self._window is None:
            self._window = (now, 0)
        else:
            start, size = self._window
            size += count
            self._window = (start, size)
            if now - start >= _LEAST_SAMPLE:
                sample = size / (now - start)
                self.rate = sample if sample > self.rate else self.rate + _FADE * (sample - self.rate)
                self._window = (now, 0)
        if self._epoch is not None:
            start, size = self._epoch
            self._epoch = (start, size + count)
            if now - start >= max(self._tuning.epoch, 4 * self.first_byte):
                self._measured((size + count) / (now - start), now)

    def running(self, now: float, *, full: bool) -> None:
        """What runs has changed.

        :param full: as many requests as the depth allows are in the air, and nothing but the link holds them up.
        """
        if not self.urgent and not self.others:
            self._window = None
        if not full:
            self._epoch = None
        elif self._epoch is None:
            self._epoch = (now, 0)

    def failed(self, now: float) -> None:
        """A request failed for a reason that lies with the host or the way there: it is left alone for a while."""
        self.depth = max(1, self.depth // 2)
        self._epoch, self._base, self._hold, self._settling = None, 0.0, HOLD, True
        self.pause.begin(now, self._tuning, self._jitter)

    def _measured(self, speed: float, now: float) -> None:
        self._epoch = (now, 0)
        if self._settling:
            self._settling = False
        elif self._hold:
            self._hold -= 1
            if not self._hold:
                self._deepen(speed)
        elif speed > GAIN * self._base:
            self._deepen(speed)
        else:
            self.depth = max(1, self.depth - 1)
            self._hold = HOLD
            self._settling = True

    def _deepen(self, speed: float) -> None:
        """`speed` is what the depth until now gives; see whether one more gives more."""
        self._base = speed
        if self.depth < self._tuning.depth_max:
            self.depth += 1
            self._settling = True
        else:
            self._hold = HOLD
