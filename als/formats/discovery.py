"""Which formats there are: every module or package in als.formats that has a ``FORMAT``.

There is no list to keep, so that a new format is a new file and nothing else. The search costs an import of each; who asks
often keeps the answer.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence

import als.formats
from als.errors import Unsupported
from als.formats.base import Format


def find_formats() -> tuple[Format, ...]:
    """All formats, the highest rank first, those of equal rank by name."""
    found: list[Format] = []
    for module_info in pkgutil.iter_modules(als.formats.__path__, "als.formats."):
        candidate = getattr(importlib.import_module(module_info.name), "FORMAT", None)
        if isinstance(candidate, Format):
            found.append(candidate)
    return tuple(sorted(found, key=lambda each: (-each.rank, each.name)))


def format_of(formats: Sequence[Format], media_type: str, annotations: Mapping[str, str]) -> Format:
    """The format of a layer.

    :param formats: as :func:`find_formats` returned them.
    :raises Unsupported: none of them knows the layer.
    """
    for candidate in formats:
        if candidate.matches(media_type, annotations):
            return candidate
    raise Unsupported(f"a layer of a media type that als does not know, {media_type[:160]!r}")
