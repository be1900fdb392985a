"""What a reader who goes through a file from front to back will want next. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

FIRST_WINDOW = 256 << 10
LAST_WINDOW = 16 << 20
_READERS = 256


@dataclass(slots=True)
class _Reader:
    next: int = 0
    """Where the last read ended."""
    window: int = FIRST_WINDOW
    asked: int = 0
    """Up to where bytes were asked for already."""


class ReadAhead:
    """Remembers the files that were read last. Not thread-safe."""

    def __init__(self) -> None:
        self._readers: OrderedDict[int, _Reader] = OrderedDict()

    def after(self, number: int, offset: int, length: int) -> tuple[int, int]:
        """A file is being read there; returns offset and length of what to fetch ahead, a length of 0 for nothing.

        A reader who goes on where it was gets a window that doubles with each use, and is asked for before it is half used up.
        """
        end = offset + length
        reader = self._readers.setdefault(number, _Reader())
        self._readers.move_to_end(number)
        if len(self._readers) > _READERS:
            self._readers.popitem(last=False)
        # The kernel's own read-ahead may come a little out of order.
        if not reader.next or abs(offset - reader.next) > FIRST_WINDOW:
            reader.next, reader.window, reader.asked = end, FIRST_WINDOW, end
            return end, 0
        reader.next = max(reader.next, end)
        if end + reader.window // 2 <= reader.asked:
            return end, 0
        start = max(end, reader.asked)
        reader.window = min(2 * reader.window, LAST_WINDOW)
        reader.asked = end + reader.window
        return start, reader.asked - start
