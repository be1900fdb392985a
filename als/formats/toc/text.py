"""How far the text of a table of contents may expand."""

from __future__ import annotations

from dataclasses import replace

from als.model.limits import Limits

_EXPANSION = 500
_EXPANSION_FLOOR = 64 << 20
"""JSON that repeats itself shrinks to a fiftieth; what shrinks tenfold more is made for it."""


def text_limits(limits: Limits) -> Limits:
    """The limits for decompressing a table of contents, or a tar-split."""
    return replace(
        limits,
        layer_bytes=min(limits.toc_text_bytes, limits.layer_bytes),
        expansion=min(_EXPANSION, limits.expansion),
        expansion_floor=min(_EXPANSION_FLOOR, limits.expansion_floor),
    )
