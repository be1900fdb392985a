"""Switching fs-verity on for the objects of a layer.

From then on an object can never be written again, by nobody, and the kernel checks each block of it against the object's digest
when the block is read. The digests go into the layer's EROFS image, by which overlay finds the objects, and the image is
sealed as well; its digest, in the layer's record, stands for the whole layer.

The kernel writes an object out before it seals it. That costs little where a sync has done so already, so it is done after
each of those in which a layer gets to the disk (:mod:`als.fetch.writeback`), while the next of it is still arriving.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from als.errors import DeadlineExceeded, StoreDamaged
from als.model.forest import FOREST
from als.native.verity import Sealed, seal_files

_THREADS = 4
"""More than there are processors as a rule: half of the time is spent waiting for the disk."""
_BATCH = 32
_PATIENCE = 120.0
_PAUSE = 0.02
"""Seconds: how long somebody else may take to seal a file, and how often it is looked whether he has."""


def seal_forest(folder: Path, names: Iterable[bytes], trusted: Collection[bytes]) -> dict[bytes, bytes]:
    """Seal files of a forest.

    A file that is sealed only now is held to what is on the disk now. So each that did not come from the memory of
    who hashed it is read again, after it was sealed.

    :param folder: what the forest is in.
    :param names: of the files, in the forest; those that are not `trusted` are sha256 digests.
    :param trusted: files whose content is known to be right.
    :returns: the fs-verity digests (32 bytes) by the names.
    :raises OSError: one cannot be sealed (:func:`als.native.verity.seal_files`).
    :raises StoreDamaged: one has another content than its name says.
    :raises DeadlineExceeded: somebody else began to seal one, and does not come to an end.
    """

    def work(batch: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        sealed = _sealed([f"{folder}/{FOREST}/{name.hex()}" for name in batch])
        for name, each in zip(batch, sealed, strict=True):
            if each.fresh and name not in trusted and _sha256(folder / FOREST / name.hex()) != name:
                where = str(folder / FOREST / name.hex())
                raise StoreDamaged("an object has another content than its name says", where=where, hint="`als fsck --repair`")
        return [(name, each.digest) for name, each in zip(batch, sealed, strict=True)]

    wanted = list(names)
    digests: dict[bytes, bytes] = {}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="sealing") as pool:
        for found in pool.map(work, [wanted[at : at + _BATCH] for at in range(0, len(wanted), _BATCH)]):
            digests.update(found)
    return digests


def _sealed(paths: Sequence[str]) -> list[Sealed]:
    """All of some files, also those that another layer has as well and is sealing just now."""
    until = time.monotonic() + _PATIENCE
    found = seal_files(paths)
    while waiting := [at for at, each in enumerate(found) if each is None]:
        if time.monotonic() > until:
            raise DeadlineExceeded("a file is not sealed by whoever began to", where=paths[waiting[0]])
        time.sleep(_PAUSE)
        for at, each in zip(waiting, seal_files([paths[at] for at in waiting]), strict=True):
            found[at] = each
    return [each for each in found if each is not None]


def seal_file(path: Path) -> bytes:
    """Seal one file that was just made; returns its digest.

    :raises OSError: as :func:`als.native.verity.seal_files`.
    """
    [sealed] = _sealed([os.fspath(path)])
    return sealed.digest


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
