"""Whether what is on disk of lazy layers is as als left it.

Nothing of a lazy layer is synced before it is named in ROOT/objects or complete, and the daemon that opens it hashes what it
finds. So after a power cut some of this may be reported that the next start of the daemon would put right by itself; repairing
it costs no more than to fetch the layer again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from als.errors import AlsError, StoreDamaged
from als.formats.index import LayerIndex
from als.formats.indexfile import unpack
from als.imagestore.records import PublishedLayer
from als.lazy.partial import LazyFolder
from als.lazy.record import LazyRecord, key_of
from als.model.forest import FOREST
from als.model.manifest import toc_digest
from als.store.layout import Layout
from als.store.lazyfolders import REFUSED
from als.store.objects import file_sha256

_NAME_HEX = 64


def folder_faults(layout: Layout, key: str, sha256: Callable[[Path], bytes] | None) -> Iterator[str]:
    """What is wrong with a lazy layer, in words; what was refused is not looked at.

    :param sha256: of a file; None: contents are not looked at.
    :raises AlsError: or OSError: so much that no more can be said.
    """
    folder = layout.lazy / key
    if (folder / REFUSED).exists():
        return
    record, index = read_lazy(layout, key)
    # Without one, it is being written, or that was cut short: nobody has been shown the layer.
    if record.image_sha256 and file_sha256(folder / "layer.erofs").hex() != record.image_sha256:
        yield "its EROFS image is not the one that was made of its index"
    numbers = {_name(index, number): number for number in range(len(index)) if index.size(number)}
    for path in _files(folder / "diff1" / FOREST):
        yield from _file_faults(path, index, numbers, sha256)
    for path in _files(folder / "parts"):
        number = numbers.get(path.name)
        if number is None:
            yield f"it has a part of {path.name}, which is none of its files"
        elif _size(path) > index.size(number):
            yield f"the part of {path.name} is larger than the file"


def lazy_faults(layout: Layout, layer: PublishedLayer, key: str) -> Iterator[str]:
    """Why a listed chain cannot be served from the lazy layer that it names.

    :raises AlsError: or OSError: the lazy layer cannot be read.
    """
    folder = layout.lazy / key
    if (folder / REFUSED).exists():
        yield "it is served from a lazy layer that was refused"
        return
    record = LazyFolder(layout, folder).record()
    if (record.diff_id, toc_digest(record.descriptor)) != (layer.diff_id, layer.toc):
        yield "it is served from the lazy layer of another"


def read_lazy(layout: Layout, key: str) -> tuple[LazyRecord, LayerIndex]:
    """What a lazy layer is made of.

    :raises AlsError: or OSError: they cannot be read, or are another layer's.
    """
    folder = layout.lazy / key
    record = LazyFolder(layout, folder).record()
    try:
        index = unpack((folder / "index").read_bytes())
    except AlsError as error:
        raise StoreDamaged(f"its index: {error.what}", where=str(folder)) from error
    if key_of(record.diff_id, record.descriptor.digest, index) != key:
        raise StoreDamaged("its record and its index are another layer's", where=str(folder))
    return record, index


def _file_faults(
    path: Path, index: LayerIndex, numbers: Mapping[str, int], sha256: Callable[[Path], bytes] | None
) -> Iterator[str]:
    number = numbers.get(path.name)
    if number is None:
        yield f"{path.name} is none of its files"
        return
    size, found = index.size(number), _size(path)
    if found != size:
        yield f"{path.name} has {found} bytes instead of {size}"
    elif sha256 is not None and not _is_right(path, index, number, sha256):
        yield f"{path.name} has another content"


def _is_right(path: Path, index: LayerIndex, number: int, sha256: Callable[[Path], bytes]) -> bool:
    promised = index.sha256(number)
    if promised is not None:
        return sha256(path) == promised
    with path.open("rb") as file:
        for chunk in index.chunks(number):
            data = file.read(chunk.size)
            right = data == bytes(chunk.size) if chunk.hole else hashlib.sha256(data).digest() == chunk.sha256
            if not right:
                return False
    return True


def _name(index: LayerIndex, number: int) -> str:
    return index.content_name(number).hex()


def _files(folder: Path) -> Iterator[Path]:
    """Those with a name of a file in the forest: others are being made by the daemon, or were when it died."""
    return (folder / name for name in sorted(os.listdir(folder)) if len(name) == _NAME_HEX)


def _size(path: Path) -> int:
    """Bytes of a file; 0 where it has been completed since its name was read, and is in the forest now."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
