"""When to start a daemon again that died, and when to give its connection up. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 60.0
STEADY_SECONDS = 2.0
"""Who served for so long was well; whatever ended it has nothing to do with its start."""
GIVE_UP = 5
"""Deaths of this kind in a row after which nobody is to wait for the daemon any more."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """Deaths so far that followed closely upon a start."""

    in_a_row: int = 0

    def died(self, served: float, *, hung: bool) -> Restarts:
        """One more death.

        :param served: seconds between its being ready and its death; 0: it never was.
        :param hung: it had to be killed. All that time clients have waited, so it counts for more.
        """
        if served >= STEADY_SECONDS:
            return Restarts()
        return Restarts(self.in_a_row + (GIVE_UP // 2 if hung else 1))

    @property
    def delay(self) -> float:
        """Seconds until the next start."""
        return min(_FIRST_DELAY * 2.0 ** (self.in_a_row - 1), _LONGEST_DELAY) if self.in_a_row else 0.0

    @property
    def hopeless(self) -> bool:
        """Whether clients had better not wait for it."""
        return self.in_a_row >= GIVE_UP
