"""How many bytes came, and how fast they come now, for reports."""

from __future__ import annotations

import threading
from collections import deque

WINDOW = 3.0
"""Seconds over which the rate is taken."""
_STEP = 0.1
_LEAST = 0.5


class Meter:
    """Thread-safe; time is passed in (seconds of any clock that does not go back)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, int]] = deque()
        """When a step of `_STEP` seconds began, and what came in it."""
        self._total = 0

    @property
    def total(self) -> int:
        """All bytes that were counted."""
        return self._total

    def add(self, count: int, now: float) -> None:
        """So many bytes came."""
        with self._lock:
            self._total += count
            if self._recent and now - self._recent[-1][0] < _STEP:
                begun, before = self._recent[-1]
                self._recent[-1] = (begun, before + count)
            else:
                self._recent.append((now, count))
            self._forget(now)

    def rate(self, now: float) -> float:
        """Bytes per second of late; 0 once none came for `WINDOW` seconds."""
        with self._lock:
            self._forget(now)
            if not self._recent:
                return 0.0
            # What has just begun is not measured against all of the window.
            seconds = max(_LEAST, now - self._recent[0][0])
            return sum(count for _, count in self._recent) / seconds

    def _forget(self, now: float) -> None:
        while self._recent and now - self._recent[0][0] > WINDOW:
            self._recent.popleft()
