"""Which formats there are: every module or package in als.formats that has a ``FORMAT`` or an ``INDEXED``.

There is no list to keep, so that a new format is a new file and nothing else. The search costs an import of each; who asks
often keeps the answer.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence

import als.formats
from als.errors import Unsupported
from als.formats.base import Format
from als.formats.lazy import IndexedFormat


def find_formats() -> tuple[Format, ...]:
    """All formats, the highest rank first, those of equal rank by name."""
    found = [candidate for candidate in _attributes("FORMAT") if isinstance(candidate, Format)]
    return tuple(sorted(found, key=lambda each: (-each.rank, each.name)))


def find_indexed() -> tuple[IndexedFormat, ...]:
    """All lazily readable formats, the highest rank first, those of equal rank by name."""
    found = [candidate for candidate in _attributes("INDEXED") if isinstance(candidate, IndexedFormat)]
    return tuple(sorted(found, key=lambda each: (-each.rank, each.name)))


def _attributes(name: str) -> Iterator[object]:
    """What each module has under this name."""
    for module_info in pkgutil.iter_modules(als.formats.__path__, "als.formats."):
        yield getattr(importlib.import_module(module_info.name), name, None)


def format_of(formats: Sequence[Format], media_type: str, annotations: Mapping[str, str]) -> Format:
    """The format of a layer.

    :param formats: as :func:`find_formats` returned them.
    :raises Unsupported: none of them knows the layer.
    """
    for candidate in formats:
        if candidate.matches(media_type, annotations):
            return candidate
    raise Unsupported(f"a layer of a media type that als does not know, {media_type[:160]!r}")


def indexed_format_of(
    formats: Sequence[IndexedFormat], media_type: str, annotations: Mapping[str, str]
) -> IndexedFormat | None:
    """The format in which a layer can be read lazily, or None where it can only be read whole.

    :param formats: as :func:`find_indexed` returned them.
    """
    return next((candidate for candidate in formats if candidate.matches(media_type, annotations)), None)
