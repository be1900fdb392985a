"""Mutations of byte strings: the same seed gives the same cases, on every machine."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

LONGEST = 1 << 16
_INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff" * 8,
    b"\0\0\0\x80",
    b"-1",
    b"9" * 30,
)


class Mutator:
    """Makes cases of one corpus.

    :param corpus: what valid input looks like; not empty.
    :param words: pieces that mean something to the parser.
    """

    def __init__(self, corpus: Sequence[bytes], words: Sequence[bytes] = ()) -> None:
        self._corpus = list(corpus)
        self._words = [*words, *_INTERESTING]
        self._steps: tuple[Callable[[bytearray, random.Random], None], ...] = (
            self._flip,
            self._flip,
            self._overwrite,
            self._insert_word,
            self._overwrite_word,
            self._delete,
            self._truncate,
            self._repeat,
            self._splice,
            self._move,
        )

    def case(self, seed: int, number: int) -> bytes:
        """The input with this number; the first ones are the corpus as it is."""
        if number < len(self._corpus):
            return self._corpus[number]
        source = random.Random(f"{seed}:{number}")
        data = bytearray(source.choice(self._corpus))
        for _ in range(source.choice((1, 1, 1, 2, 2, 3, 5, 12))):
            source.choice(self._steps)(data, source)
        return bytes(data[:LONGEST])

    def cases(self, seed: int, count: int) -> Iterator[bytes]:
        for number in range(count):
            yield self.case(seed, number)

    @staticmethod
    def _flip(data: bytearray, source: random.Random) -> None:
        if data:
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)

    @staticmethod
    def _overwrite(data: bytearray, source: random.Random) -> None:
        if data:
            data[source.randrange(len(data))] = source.randrange(256)

    def _insert_word(self, data: bytearray, source: random.Random) -> None:
        at = source.randint(0, len(data))
        data[at:at] = source.choice(self._words)

    def _overwrite_word(self, data: bytearray, source: random.Random) -> None:
        word = source.choice(self._words)
        at = source.randint(0, len(data))
        data[at : at + len(word)] = word

    @staticmethod
    def _span(data: bytearray, source: random.Random) -> tuple[int, int]:
        start = source.randint(0, len(data))
        return start, min(len(data), start + int(2 ** source.uniform(0, 10)))

    def _delete(self, data: bytearray, source: random.Random) -> None:
        start, end = self._span(data, source)
        del data[start:end]

    @staticmethod
    def _truncate(data: bytearray, source: random.Random) -> None:
        del data[source.randint(0, len(data)) :]

    def _repeat(self, data: bytearray, source: random.Random) -> None:
        start, end = self._span(data, source)
        piece = bytes(data[start:end])
        data[end:end] = piece * min(source.choice((1, 2, 7, 100, 2000)), LONGEST // (len(piece) + 1))

    def _splice(self, data: bytearray, source: random.Random) -> None:
        other = source.choice(self._corpus)
        data[source.randint(0, len(data)) :] = other[source.randint(0, len(other)) :]

    def _move(self, data: bytearray, source: random.Random) -> None:
        start, end = self._span(data, source)
        piece = bytes(data[start:end])
        del data[start:end]
        at = source.randint(0, len(data))
        data[at:at] = piece
