"""Layers with tables of contents that can be made to lie."""

from __future__ import annotations

from collections.abc import Callable

from als.errors import AlsError
from als.formats.discovery import find_indexed, indexed_format_of
from als.formats.lazy import IndexedFormat, tree_of
from als.model.limits import DEFAULT_LIMITS, Limits
from tests.formats.lazylayers import LazyLayer
from tests.formats.tocbuilder import (
    Row,
    Source,
    Writer,
    document_of,
    file,
    finish_estargz,
    finish_podman,
    folder,
    gzip_member,
    zstd_frame,
)

INDEXED = find_indexed()
SOURCES: list[Source] = [folder("d"), file("d/a", b"a" * 2500), file("d/b", b"b" * 100), file("d/empty", b"")]
"""The file ``d/a`` has three chunks of 1,000 bytes and less."""
A, A2, A3, B, EMPTY = 1, 2, 3, 4, 5
"""Numbers of the rows."""
SHA = "sha256:" + "1" * 64
HUGE = 10**4000


def writer(flavour: str) -> Writer:
    made = Writer(gzip_member, 1000) if flavour == "estargz" else Writer(zstd_frame, 1000, headers_apart=True)
    for member, content in SOURCES:
        made.add(member, content)
    if flavour != "estargz":
        made.end()
    return made


def finish(flavour: str, made: Writer, document: bytes) -> LazyLayer:
    return finish_estargz(made, document) if flavour == "estargz" else finish_podman(made, document, tar_split=False)


def format_for(layer: LazyLayer) -> IndexedFormat:
    found = indexed_format_of(INDEXED, layer.descriptor.media_type, layer.descriptor.annotations)
    assert found is not None
    return found


def outcome(layer: LazyLayer, limits: Limits = DEFAULT_LIMITS) -> AlsError | None:
    """The error with which a layer is refused; anything else than an AlsError is let through."""
    try:
        tree_of(layer.index(format_for(layer), limits), limits)
    except AlsError as error:
        return error
    return None


def put(number: int, **values: object) -> Callable[[list[Row]], None]:
    return lambda rows: rows[number].update(values)


def drop(number: int, *names: str) -> Callable[[list[Row]], None]:
    def change(rows: list[Row]) -> None:
        for name in names:
            rows[number].pop(name, None)

    return change


def remove(number: int) -> Callable[[list[Row]], None]:
    def change(rows: list[Row]) -> None:
        del rows[number]

    return change


def append(**values: object) -> Callable[[list[Row]], None]:
    return lambda rows: rows.append({"mode": 0o644, **values})


def swap(one: int, other: int) -> Callable[[list[Row]], None]:
    def change(rows: list[Row]) -> None:
        rows[one], rows[other] = rows[other], rows[one]

    return change


def same_unit(one: int, other: int) -> Callable[[list[Row]], None]:
    return lambda rows: rows[one].update(offset=rows[other]["offset"])


def lied(flavour: str, change: Callable[[list[Row]], None]) -> LazyLayer:
    made = writer(flavour)
    change(made.rows)
    return finish(flavour, made, document_of(made.rows))
