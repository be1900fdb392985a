"""Moments that no setting of the clock moves: how long a machine has been running, in one of its boots.

Leases count in these. The wall clock is set by hand, by NTP after a boot without a battery, and by whoever resumes a virtual
machine; a step forward would end every lease at once, and one backward would let them last for as long as the step was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from als.errors import StoreDamaged

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Which boot of the machine this is."""
    return _BOOT_ID.read_text("ascii").strip()


@dataclass(frozen=True, slots=True)
class Uptime:
    """Seconds of the monotonic clock, which all processes share and which stands still while the machine sleeps."""

    boot: str = ""
    seconds: float = 0.0

    @staticmethod
    def now() -> Uptime:
        return Uptime(boot_id(), time.monotonic())

    def is_over(self, seconds: float, now: Uptime) -> bool:
        """Whether so many seconds have passed since. In another boot they have: of what ran then, nothing runs any more."""
        return self.boot != now.boot or now.seconds >= self.seconds + seconds

    def to_json(self) -> dict[str, object]:
        return {"boot": self.boot, "seconds": self.seconds}

    @staticmethod
    def from_json(value: object, where: str) -> Uptime:
        """
        :param value: None: the record is older than these moments.
        :raises StoreDamaged: it is not what als writes.
        """
        match value:
            case None:
                return NEVER
            case {"boot": str(boot), "seconds": float(seconds)}:
                return Uptime(boot, seconds)
        raise StoreDamaged(f"not a moment of a boot: {value!r}", where=where, hint="remove it")


NEVER = Uptime()
"""In no boot."""
