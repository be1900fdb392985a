"""Cuts the bytes of a range into units. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence


class Cutter:
    """For one stream of a blob's bytes.

    :param position: where in the blob the stream begins.
    :param units: those that are wanted, in order; what lies between them is thrown away.
    """

    def __init__(self, starts: Sequence[int], ends: Sequence[int], position: int, units: Iterable[int]) -> None:
        self._starts = starts
        self._ends = ends
        self._units = deque(units)
        self._held = bytearray()
        self.position = position
        """Where in the blob the next bytes are from."""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take the next bytes; gives the units that are whole with them."""
        at = 0
        while at < len(data) and self._units:
            unit = self._units[0]
            start, end = self._starts[unit], self._ends[unit]
            if self.position > start and not self._held:
                # It began before the stream did.
                self._units.popleft()
                continue
            if self.position < start:
                step = min(start - self.position, len(data) - at)
                self._move(step)
                at += step
                continue
            step = min(end - self.position, len(data) - at)
            piece = data[at : at + step]
            self._move(step)
            at += step
            if self.position == end:
                whole = bytes(self._held) + piece if self._held else piece
                self._held.clear()
                self._units.popleft()
                yield unit, whole
            else:
                self._held += piece
        self._move(len(data) - at)

    def _move(self, step: int) -> None:
        self.position += step
