"""What several targets have in common."""

from __future__ import annotations

import random
from collections.abc import Iterator

from als.model.limits import Limits

LIMITS = Limits(
    entries=2000,
    depth=200,
    header_bytes=1 << 15,
    layer_bytes=4 << 20,
    file_bytes=4 << 20,
    metadata_bytes=1 << 20,
    expansion=200,
    expansion_floor=1 << 20,
)
DOCUMENT = (b'"', b"{}", b"[]", b"[" * 5000, b'{"a":' * 3000, b"null", b"1e999", b"-1", b"\\ud800", b"9" * 5000, b"sha256:")
"""Pieces that mean something to readers of JSON."""
WHITEOUTS = (b".wh.", b".wh..wh..opq", b".als", b"/", b"x" * 300)


def pieces(data: bytes) -> Iterator[bytes]:
    """The data in two or more pieces, cut where the data themselves say."""
    source = random.Random(data[:64])
    while data:
        cut = source.choice((1, 100, 512, 5000, len(data)))
        yield data[:cut]
        data = data[cut:]
