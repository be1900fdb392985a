"""Objects: files by the sha256 of their content, and the forest of hardlinks through which a layer holds them.

Whoever makes a layer stages its objects in that layer's own forest, below ``tmp/``. They get their names in ``objects/``
in :meth:`Forest.commit`, after one syncfs(2) for all of them, so a power cut cannot leave a name on content that never
reached the disk, and thousands of files cost one wait for the disk instead of thousands.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from als.errors import StoreDamaged
from als.model.forest import FOREST
from als.native.files import link_files, reflink, write_new_files
from als.native.refusal import Refusal, refusal
from als.native.verity import measure_path
from als.store.layout import Layout
from als.store.sealing import seal_file

_OBJECT_MODE = 0o444


class Forest:
    """The objects of one layer while it is being made. One thread at a time; many forests side by side."""

    def __init__(self, layout: Layout, path: Path) -> None:
        self._layout = layout
        self._path = path
        # Names are joined as text here: with Path, 7,000 files took 0.2 s longer.
        self._prefix = f"{path}/{FOREST}/"
        self._held: dict[bytes, int] = {}
        self._staged: set[bytes] = set()
        """What the store did not have before."""
        self._named: set[bytes] = set()
        """What of it has its name there by now."""
        (path / FOREST).mkdir(mode=0o755, parents=True)

    @property
    def new_bytes(self) -> int:
        """Bytes of content that the store did not have before."""
        return sum(self._held[sha256] for sha256 in self._staged)

    @property
    def path(self) -> Path:
        """The folder that the forest is in."""
        return self._path

    @property
    def staged(self) -> set[bytes]:
        """sha256 of what the store did not have before; its content was hashed here."""
        return self._staged

    @property
    def sizes(self) -> dict[bytes, int]:
        """Size in bytes by sha256 of everything held."""
        return self._held

    def add(self, data: bytes) -> bytes:
        """Hold an object with this content, and return its sha256. For files that fit in memory."""
        sha256 = hashlib.sha256(data).digest()
        self.add_all({sha256: data})
        return sha256

    def add_all(self, contents: Mapping[bytes, bytes | bytearray | memoryview]) -> None:
        """Hold objects with these contents, each by its sha256, which the caller has computed from these very bytes."""
        new = {sha256: data for sha256, data in contents.items() if sha256 not in self._held}
        files = [(self._layout.object_name(sha256), self._name(sha256), data) for sha256, data in new.items()]
        for (sha256, data), found in zip(new.items(), write_new_files(files, _OBJECT_MODE), strict=True):
            if found:
                self.hold(sha256, len(data))
            else:
                self._staged.add(sha256)
                self._held[sha256] = len(data)

    def hold(self, sha256: bytes, size: int) -> bool:
        """Link an object that the store or this forest already has; False: it has none."""
        if sha256 in self._held:
            return True
        source = self._layout.object_name(sha256)
        try:
            found = os.stat(source)  # noqa: PTH116  (see `_prefix`)
        except FileNotFoundError:
            return False
        if found.st_size != size:
            raise StoreDamaged(
                f"an object has {found.st_size} bytes instead of {size}", where=source, hint="remove it and pull again"
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
        """Give what is staged its names in the store: all, or none where that fails. The caller has synced before."""
        new = self._staged - self._named
        links = [(self._name(sha256), self._layout.object_name(sha256)) for sha256 in new]
        self._named |= new
        try:
            for (here, there), found in zip(links, link_files(links), strict=True):
                if found:
                    # Another layer with the same file was quicker; take its copy, so that there is one.
                    os.unlink(here)  # noqa: PTH108  (see `_prefix`)
                    link_or_copy(there, here)
        except OSError:
            self.withdraw()
            raise

    def withdraw(self) -> None:
        """The layer comes to nothing: what nobody else holds loses its name in the store again."""
        for sha256 in self._named:
            _unname(Path(self._name(sha256)), self._layout.object(sha256))
        self._named.clear()

    def _name(self, sha256: bytes) -> str:
        return self._prefix + sha256.hex()


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


def _unname(here: Path, there: Path) -> None:
    """Take back the name `there` of the object `here`, if it has that one and nobody else has linked it in the meantime."""
    try:
        named, own = there.stat(), here.stat()
    except FileNotFoundError:
        return
    if (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino) and named.st_nlink == 2:
        there.unlink()


def write_all(fd: int, data: bytes | memoryview) -> None:
    """write(2) until nothing is left."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def link_or_copy(source: Path | str, target: Path | str) -> None:
    """A second name for an object; where its inode has no room for another (65,000 on ext4), a second copy of it."""
    try:
        os.link(source, target)
    except OSError as error:
        if refusal(error) is not Refusal.TOO_MANY_LINKS:
            raise
        copy_object(Path(source), Path(target))


def copy_object(source: Path, target: Path) -> None:
    """A file of its own with the same content, that shares its blocks where the file system can; sealed if the other one is."""
    staging = target.with_name(f".copy-{secrets.token_hex(8)}")
    try:
        with source.open("rb") as old, staging.open("xb") as new:
            os.fchmod(new.fileno(), _OBJECT_MODE)
            try:
                reflink(old.fileno(), new.fileno())
            except OSError as error:
                if refusal(error) not in (Refusal.UNSUPPORTED, Refusal.INVALID, Refusal.OTHER_DEVICE):
                    raise
                shutil.copyfileobj(old, new)
        if measure_path(source) is not None:
            # Who mounts with verity=require reads nothing that is not sealed.
            seal_file(staging)
        staging.rename(target)
    except OSError:
        # Half a copy under an object's name would be taken for the object.
        staging.unlink(missing_ok=True)
        raise


def replace_in_forest(source: Path, target: Path) -> None:
    """Let a name in a forest stand for another file than before, without a moment in which it stands for none."""
    staging = target.with_name(f".link-{secrets.token_hex(8)}")
    link_or_copy(source, staging)
    try:
        staging.rename(target)
    finally:
        # Where both were names of one file already, rename(2) leaves them.
        staging.unlink(missing_ok=True)


def object_damage(path: Path, sha256: bytes) -> str:
    """What is wrong with the content of an object, in words; "" if nothing is.

    :raises FileNotFoundError: there is none.
    """
    try:
        found = file_sha256(path)
    except OSError as error:
        if refusal(error) is Refusal.MISSING:
            raise
        # What fs-verity or the disk does not give.
        return f"cannot be read: {error.strerror}"
    return "" if found == sha256 else "has another content"


def file_sha256(path: Path) -> bytes:
    """The sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def is_staging(name: str) -> bool:
    """Whether a name in a forest, or a folder of objects, is no object's: somebody links or copies one, or was killed then."""
    return name.startswith(".")


def object_files(folder: Path) -> list[Path]:
    """The objects in the folder of a forest, or in one of ROOT/objects."""
    return [path for path in folder.iterdir() if not is_staging(path.name)]


def forest_names(forest: Path) -> set[str]:
    """What a forest holds; nothing where there is none."""
    try:
        return {name for name in os.listdir(forest / FOREST) if not is_staging(name)}
    except FileNotFoundError:
        return set()


def add_to_forest(source: Path, target: Path) -> None:
    """Let a forest, made here if need be, hold what another one holds."""
    (target / FOREST).mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        link_files([(f"{source}/{FOREST}/{name}", f"{target}/{FOREST}/{name}") for name in forest_names(source)])
    except OSError as error:
        if refusal(error) is not Refusal.TOO_MANY_LINKS:
            raise
        for name in forest_names(source) - forest_names(target):
            link_or_copy(source / FOREST / name, target / FOREST / name)
