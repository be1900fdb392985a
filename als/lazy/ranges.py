"""Parts of a blob that are no units of files: fetched by the same engine, by the same rules, and kept by who asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait

from als.errors import AlsError, BadImage, DeadlineExceeded, NotFound
from als.fetch.source import RangeSource
from als.formats.codecs import Compression
from als.lazy.layer import LazyLayer

_WRONG_MAX = 5
_TICK = 0.5


class Ranges:
    """Some ranges of a layer's blob, as a target of the engine.

    :param ranges: offset and end of each, in order, and the most bytes that may come out of it.
    :param keep: given the number of a range and its decompressed bytes; raises BadImage where they are wrong.
    """

    def __init__(
        self,
        layer: LazyLayer,
        name: str,
        ranges: Sequence[tuple[int, int, int]],
        compression: Compression,
        keep: Callable[[int, bytearray], None],
    ) -> None:
        self.key = f"{layer.key}/{name}"
        self.host = layer.host
        self.digest = layer.digest
        self.blob_size = layer.blob_size
        self.where = layer.where
        self.compression = compression
        self.whole = True
        self.starts: Sequence[int] = [start for start, _, _ in ranges]
        self.ends: Sequence[int] = [end for _, end, _ in ranges]
        self.done: Future[None] = Future()
        """Fulfilled when all have come; fails when they will not."""
        self._most = [most for _, _, most in ranges]
        self._layer = layer
        self._keep = keep
        self._left = set(range(len(ranges)))
        self._wrong = 0
        self._trouble: AlsError | None = None

    def fetch(self, stall: float) -> None:
        """Fetch them in the background.

        :param stall: seconds after which it is given up when none of them has come.
        :raises AlsError: they do not come.
        """
        if not self._left:
            return
        self._layer.engine.add(self, ())
        self._layer.engine.fill(self)
        try:
            left, since = len(self._left), time.monotonic()
            while not self.done.done():
                wait([self.done], _TICK)
                self._layer.engine.check()
                if len(self._left) != left:
                    left, since = len(self._left), time.monotonic()
                elif time.monotonic() - since > stall and not self.done.done():
                    raise self._trouble or DeadlineExceeded(f"nothing came for {stall:.0f} seconds", where=self.where)
            self.done.result(0)
        finally:
            self._layer.engine.remove(self)

    def most(self, unit: int) -> int:
        return self._most[unit]

    def still_needed(self, units: Sequence[int]) -> set[int]:
        return set(units)

    def source(self) -> RangeSource:
        return self._layer.source()

    def broken(self, source: RangeSource) -> None:
        self._layer.broken(source)

    def served(self, place: str, count: int = 0) -> None:
        self._layer.served(place, count)

    def deliver(self, units: Mapping[int, bytearray]) -> dict[int, AlsError]:
        wrong: dict[int, AlsError] = {}
        for unit, data in units.items():
            try:
                self._keep(unit, data)
            except BadImage as error:
                wrong[unit] = error
                continue
            self._left.discard(unit)
        if not self._left and not self.done.done():
            self.done.set_result(None)
        return wrong

    def trouble(self, units: Sequence[int], error: AlsError) -> None:
        self._wrong += isinstance(error, BadImage)
        self._trouble = error
        self._layer.trouble((), error)
        if (isinstance(error, NotFound) or self._wrong >= _WRONG_MAX) and not self.done.done():
            self.done.set_exception(error)
