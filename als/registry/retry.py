"""Deadlines, and the pauses between attempts."""

from __future__ import annotations

import email.utils
import random
import time
from datetime import UTC, datetime

from als.registry.settings import Settings

TEMPORARY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may well be different next time."""


class Deadline:
    """A moment on the monotonic clock after which we stop waiting."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left; 0 once it has passed."""
        return max(0.0, self._end - time.monotonic())


def pause_before(attempt: int, settings: Settings, retry_after: str | None) -> float:
    """Seconds to wait before the attempt of this number (the second attempt has number 1).

    Half of the exponential pause is random, so that many clients of a registry that comes back do not all come at once. A
    ``Retry-After`` of the server is the least we wait.
    """
    longest = min(settings.backoff * float(1 << (attempt - 1)), settings.backoff_max)
    pause = longest * random.uniform(0.5, 1.0)
    return max(pause, parse_retry_after(retry_after, datetime.now(UTC)))


def parse_retry_after(text: str | None, now: datetime) -> float:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, 10.2.3: seconds or a date); 0 where it means nothing."""
    if text is None:
        return 0.0
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - now).total_seconds())
