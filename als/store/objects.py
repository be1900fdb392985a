"""Objects: files by the sha256 of their content, and the forest of hardlinks through which a layer holds them.

Whoever makes a layer stages its objects in that layer's own forest, below ``tmp/``. They get their names in ``objects/``
in :meth:`Forest.commit`, after one syncfs(2) for all of them, so a power cut cannot leave a name on content that never
reached the disk, and thousands of files cost one wait for the disk instead of thousands.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from als.errors import StoreDamaged, StoreError, StoreFull
from als.model.forest import FOREST, forest_path
from als.native.files import reflink
from als.native.refusal import Refusal, refusal
from als.store.layout import Layout

_OBJECT_MODE = 0o444


@contextlib.contextmanager
def store_errors(where: Path) -> Iterator[None]:
    """Turn what the file system says into what the user needs to know."""
    try:
        yield
    except OSError as error:
        if refusal(error) is Refusal.NO_SPACE:
            raise StoreFull(
                "no space left for the store", where=str(where), hint="make room, or remove images with `als rm`"
            ) from error
        raise StoreError(f"the store cannot be written: {error.strerror}", where=str(error.filename or where)) from error


class Forest:
    """The objects of one layer while it is being made. One thread at a time; many forests side by side."""

    def __init__(self, layout: Layout, path: Path) -> None:
        self._layout = layout
        self._path = path
        self._held: dict[bytes, int] = {}
        self._staged: set[bytes] = set()
        (path / FOREST).mkdir(mode=0o755, parents=True)

    @property
    def new_bytes(self) -> int:
        """Bytes of content that the store did not have before."""
        return sum(self._held[sha256] for sha256 in self._staged)

    @property
    def sizes(self) -> dict[bytes, int]:
        """Size in bytes by sha256 of everything held."""
        return self._held

    def add(self, data: bytes) -> bytes:
        """Hold an object with this content, and return its sha256. For files that fit in memory."""
        sha256 = hashlib.sha256(data).digest()
        if not self.hold(sha256, len(data)):
            fd = os.open(self._name(sha256), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OBJECT_MODE)
            try:
                write_all(fd, data)
            finally:
                os.close(fd)
            self._staged.add(sha256)
            self._held[sha256] = len(data)
        return sha256

    def hold(self, sha256: bytes, size: int) -> bool:
        """Link an object that the store or this forest already has; False: it has none."""
        if sha256 in self._held:
            return True
        source = self._layout.object(sha256)
        try:
            found = source.stat()
        except FileNotFoundError:
            return False
        if found.st_size != size:
            raise StoreDamaged(
                f"an object has {found.st_size} bytes instead of {size}", where=str(source), hint="remove it and pull again"
            )
        link_or_copy(source, self._name(sha256))
        self._held[sha256] = size
        return True

    def writer(self) -> ObjectWriter:
        """For content that comes in pieces."""
        return ObjectWriter(self, self._path / f".part-{secrets.token_hex(8)}")

    def adopt(self, part: Path, sha256: bytes, size: int) -> None:
        """Take over a finished temporary file as the object it turned out to be."""
        if self.hold(sha256, size):
            part.unlink()
            return
        part.rename(self._name(sha256))
        self._staged.add(sha256)
        self._held[sha256] = size

    def commit(self) -> None:
        """Give what is staged its names in the store. The caller has synced the file system before."""
        for sha256 in self._staged:
            here = self._name(sha256)
            there = self._layout.object(sha256)
            try:
                os.link(here, there)
            except FileExistsError:
                # Another layer with the same file was quicker; take its copy, so that there is one.
                here.unlink()
                link_or_copy(there, here)

    def _name(self, sha256: bytes) -> Path:
        return self._path / forest_path(sha256)


class ObjectWriter:
    """Writes one object, until :meth:`finish` or :meth:`abandon`."""

    def __init__(self, forest: Forest, path: Path) -> None:
        self._forest = forest
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OBJECT_MODE)
        self._hash = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        write_all(self._fd, data)
        self._size += len(data)

    def hole(self, length: int) -> None:
        """Zeros that take no space on disk."""
        zeros = bytes(min(length, 1 << 20))
        left = length
        while left:
            step = min(left, len(zeros))
            self._hash.update(memoryview(zeros)[:step])
            left -= step
        self._size += length
        os.lseek(self._fd, length, os.SEEK_CUR)

    def finish(self) -> bytes:
        """Complete the object and return its sha256."""
        os.ftruncate(self._fd, self._size)
        os.close(self._fd)
        self._fd = -1
        sha256 = self._hash.digest()
        self._forest.adopt(self._path, sha256, self._size)
        return sha256

    def abandon(self) -> None:
        """Leave nothing behind of an object that will not be finished."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._path.unlink(missing_ok=True)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """write(2) until nothing is left."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for an object; where its inode has no room for another (65,000 on ext4), a second copy of it."""
    try:
        os.link(source, target)
    except OSError as error:
        if refusal(error) is not Refusal.TOO_MANY_LINKS:
            raise
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    """A file of its own with the same content, that shares its blocks where the file system can."""
    with source.open("rb") as old, target.open("xb") as new:
        os.fchmod(new.fileno(), _OBJECT_MODE)
        try:
            reflink(old.fileno(), new.fileno())
        except OSError as error:
            if refusal(error) not in (Refusal.UNSUPPORTED, Refusal.INVALID, Refusal.OTHER_DEVICE):
                raise
            shutil.copyfileobj(old, new)


def forest_names(forest: Path) -> set[str]:
    """What a forest holds; nothing where there is none."""
    try:
        return set(os.listdir(forest / FOREST))
    except FileNotFoundError:
        return set()


def add_to_forest(source: Path, target: Path) -> None:
    """Let a forest, made here if need be, hold what another one holds."""
    (target / FOREST).mkdir(mode=0o755, parents=True, exist_ok=True)
    for name in forest_names(source) - forest_names(target):
        link_or_copy(source / FOREST / name, target / FOREST / name)
