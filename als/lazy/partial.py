"""A layer on disk while it is coming.

::

    ROOT/lazy/<key>/
        lazy.json               what it is (LazyRecord)
        index                   als.formats.indexfile
        layer.erofs             the tree of the index, as the finished layer will have it; written last
        diff/, diff2            for clients of the ALS protocol alone: the mounted image; -> the folder in the FUSE mount
        diff1/.als/<name>       the forest: files that are whole; hardlinks to objects where those have their names already
        parts/<name>            sparse: the verified chunks of files that are not
        rest                    als.lazy.rest

The key is a digest of everything that somebody who wants the layer was promised: DiffID, blob and the manifest's commitments to
the index. The DiffID alone would not do: until all bytes are here nobody knows whether a layer has the one that its image's
config states, and an image that lies would be shown in place of an honest one.

What is in `parts` was verified before it was written, and in the forest a file appears by a rename. Nothing is synced on the
way, so after a power cut either may hold anything. :meth:`LazyFolder.recover` therefore hashes whatever has no name in
ROOT/objects; a list of the chunks that are here would have to be verified against the files as well, so none is kept. Files get
their names in ROOT/objects in batches, each after one syncfs(2): :meth:`LazyFolder.commit`.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from als.errors import BadImage, DigestMismatch, StoreDamaged, StoreError
from als.lazy.chunks import ChunkMap
from als.lazy.record import LazyRecord
from als.model.forest import FOREST
from als.native.files import link_files, write_new_files
from als.store.atomic import read_json, sync_file_system
from als.store.layout import Layout
from als.store.objects import link_or_copy, replace_in_forest
from als.store.refused import store_errors

SEALED = "sealed"
"""A file in the folder of a layer that the store has in full: containers may still look files up here."""
_RECORD = "lazy.json"
_MODE = 0o444
_PIECE = 1 << 20
_NAME_HEX = 64


class LazyFolder:
    """The files of one lazy layer. Thread-safe, but for what is said of single methods.

    Failures of the disk are raised as StoreError.
    """

    def __init__(self, layout: Layout, path: Path) -> None:
        self._layout = layout
        self.path = path
        self._forest = f"{path}/diff1/{FOREST}/"
        self._parts = f"{path}/parts/"
        self._lock = threading.Lock()
        self._naming = threading.Lock()
        """Held during a commit: who comes second waits for the first, and takes what that could not name."""
        self._staged: dict[bytes, bytes] = {}
        """Files without a name in ROOT/objects yet: sha256 to the name in the forest."""
        self._staged_bytes = 0
        self._numbers = 0

    @staticmethod
    def prepare(path: Path, rest: Path) -> None:
        """Make the folders of a new layer in `path`.

        :param rest: shows all its files, those that are not here as well.
        """
        (path / "diff1" / FOREST).mkdir(mode=0o755, parents=True)
        (path / "diff1").chmod(0o755)
        (path / "parts").mkdir(mode=0o700)
        (path / "diff").mkdir(mode=0o755)
        (path / "diff2").symlink_to(rest)

    @property
    def image(self) -> Path:
        return self.path / "layer.erofs"

    @property
    def forest(self) -> Path:
        """The folder that has ``.als/<name>`` of all files that are here: ``diff1`` in the ALS protocol's terms."""
        return self.path / "diff1"

    @property
    def staged_bytes(self) -> int:
        """Bytes of files that `commit` would name."""
        return self._staged_bytes

    def record(self) -> LazyRecord:
        """What lazy.json says.

        :raises StoreDamaged: it is torn.
        """
        path = self.path / _RECORD
        return LazyRecord.from_json(read_json(path), str(path))

    def put_record(self, record: LazyRecord) -> None:
        """Write lazy.json, in place of what there was."""
        with store_errors(self.path):
            staging = self.path / f".{_RECORD}"
            staging.write_text(json.dumps(record.to_json(), indent=1, sort_keys=True), "utf-8")
            staging.rename(self.path / _RECORD)

    # -- reading

    def read(self, name: bytes, offset: int, length: int, blank: Callable[[], bool]) -> bytes:
        """Bytes of a file. The caller knows that they are here.

        :param blank: asked where the file has nothing yet: whether these bytes are a hole.
        :raises StoreDamaged: the file is shorter than that, or gone.
        """
        text = name.hex()
        # It may become whole, and so move, between two looks.
        for path in (self._forest + text, self._parts + text, self._forest + text):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                with store_errors(self.path):
                    data = os.pread(fd, length, offset)
            finally:
                os.close(fd)
            if len(data) == length:
                return data
        if blank():
            return bytes(length)
        raise StoreDamaged("a file of a lazy layer is damaged", where=f"{self.path} {text}", hint="pull the image again")

    # -- writing

    def write(self, name: bytes, size: int, offset: int, data: bytes | memoryview) -> None:
        """Verified bytes of a file that is not whole yet."""
        with store_errors(self.path):
            fd = self._part(name, size)
            try:
                write_at(fd, data, offset)
            finally:
                os.close(fd)

    def store_all(self, files: Mapping[bytes, bytes | memoryview]) -> None:
        """Whole files by their sha256, which is that of their index too and was computed from these very bytes."""
        with self._lock:
            self._numbers += 1
            prefix = f"{self._parts}new-{self._numbers}-"
        names = {name: prefix + name.hex() for name in files}
        with store_errors(self.path):
            known = write_new_files([(self._layout.object_name(name), names[name], files[name]) for name in files], _MODE)
            for (name, data), found in zip(files.items(), known, strict=True):
                if not found or not self._link(name, name, len(data)):
                    self._place(names[name], name, name, len(data))

    def finish(self, name: bytes, sha256: bytes | None, size: int) -> None:
        """All chunks of a file were written (holes are left out): it becomes whole, if it is what was promised.

        :raises DigestMismatch: together they are not the file that the index promises.
        """
        with store_errors(self.path):
            fd = self._part(name, size)
            try:
                os.ftruncate(fd, size)
                found = _hash(fd)
            finally:
                os.close(fd)
            part = self._parts + name.hex()
            if sha256 is not None and found != sha256:
                raise DigestMismatch(
                    f"its chunks are what the index promises, but the file has sha256 {found.hex()}", where=name.hex()
                )
            if self._link(found, name, size):
                Path(part).unlink(missing_ok=True)
            else:
                self._place(part, name, found, size)

    def link_known(self, wanted: Iterable[tuple[bytes, int]]) -> list[bytes]:
        """Take from the store what it has of these files (sha256 and size); returns the sha256 of those."""
        with store_errors(self.path):
            return [sha256 for sha256, size in wanted if self._link(sha256, sha256, size)]

    def link_all_known(self, wanted: Iterable[tuple[bytes, int]]) -> list[bytes]:
        """The same for very many files: the store's folders are listed, each once."""
        by_folder: dict[int, list[tuple[bytes, int]]] = {}
        for each in wanted:
            by_folder.setdefault(each[0][0], []).append(each)
        found: list[bytes] = []
        for first, files in by_folder.items():
            names = set(os.listdir(f"{self._layout.objects}/{first:02x}"))
            if names:
                found += self.link_known([each for each in files if each[0].hex()[2:] in names])
        return found

    # -- names in ROOT/objects

    def commit(self) -> list[bytes]:
        """Wait until what is here has reached the disk, then give whole files their names in ROOT/objects.

        :returns: the sha256 of the new objects.
        """
        with self._naming:
            with self._lock:
                staged, self._staged = self._staged, {}
                size, self._staged_bytes = self._staged_bytes, 0
            if not staged:
                return []
            try:
                with store_errors(self.path):
                    self._name(staged)
            except StoreError:
                # Those that have their names already get them once more by the next commit.
                with self._lock:
                    self._staged = staged | self._staged
                    self._staged_bytes += size
                raise
            return list(staged)

    # -- after a restart

    def recover(self, chunks: ChunkMap) -> None:
        """Find out what is here, and tell `chunks`. What has no name in ROOT/objects is hashed; what is wrong is removed."""
        with store_errors(self.path):
            for name in os.listdir(self._forest):
                self._recover_file(name, chunks)
            for name in os.listdir(self._parts):
                self._recover_part(name, chunks)
        for number in chunks.filled():
            # Nothing but holes.
            self.finish(chunks.name(number), chunks.index.sha256(number), chunks.index.size(number))
            chunks.set_whole(number)

    def _recover_file(self, text: str, chunks: ChunkMap) -> None:
        path = Path(self._forest + text)
        name = _parsed(text)
        number = chunks.find(name) if name is not None else None
        found = path.stat()
        if number is None or name is None:
            if name is None or found.st_nlink == 1:
                path.unlink()
            return
        size = chunks.index.size(number)
        if found.st_size != size:
            path.unlink()
            return
        if found.st_nlink == 1:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                sha256 = _hash(fd)
                promised = chunks.index.sha256(number)
                right = promised == sha256 if promised is not None else all(_verified(fd, chunks, number))
            finally:
                os.close(fd)
            if not right:
                path.unlink()
                return
            with self._lock:
                self._staged[sha256] = name
                self._staged_bytes += size
        chunks.set_whole(number)

    def _recover_part(self, text: str, chunks: ChunkMap) -> None:
        path = Path(self._parts + text)
        name = _parsed(text)
        number = chunks.find(name) if name is not None else None
        if number is None or name is None or chunks.whole(number):
            path.unlink()
            return
        done = False
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for row, right in zip(chunks.rows(number), _verified(fd, chunks, number), strict=True):
                if right:
                    done = chunks.set_here(number, row)
        finally:
            os.close(fd)
        if done:
            self.finish(name, chunks.index.sha256(number), chunks.index.size(number))
            chunks.set_whole(number)

    # -- within

    def _name(self, staged: Mapping[bytes, bytes]) -> None:
        links = [(self._forest + name.hex(), self._layout.object_name(sha256)) for sha256, name in staged.items()]
        sync_file_system(self.path)
        for (here, there), found in zip(links, link_files(links), strict=True):
            if found:
                # Another layer with the same file was quicker: from now on there is one copy.
                replace_in_forest(Path(there), Path(here))

    def _part(self, name: bytes, size: int) -> int:
        fd = os.open(self._parts + name.hex(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        if os.fstat(fd).st_size != size:
            os.ftruncate(fd, size)
        return fd

    def _link(self, sha256: bytes, name: bytes, size: int) -> bool:
        """Take a file from the store, if it is there."""
        source = self._layout.object_name(sha256)
        try:
            found = os.stat(source)  # noqa: PTH116  (a Path for each of a million files takes longer than the call)
        except FileNotFoundError:
            return False
        if found.st_size != size:
            raise BadImage(f"the index says {size} bytes of a file that has {found.st_size}", where=sha256.hex())
        try:
            link_or_copy(source, self._forest + name.hex())
        except FileExistsError:
            return True
        except FileNotFoundError:
            return False
        return True

    def _place(self, path: str, name: bytes, sha256: bytes, size: int) -> None:
        """Let a finished file be seen."""
        os.rename(path, self._forest + name.hex())  # noqa: PTH104  (as in `_link`)
        with self._lock:
            if sha256 not in self._staged:
                self._staged[sha256] = name
                self._staged_bytes += size


def write_at(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """pwrite(2) until nothing is left."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def _parsed(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text) if len(text) == _NAME_HEX else None
    except ValueError:
        return None


def _hash(fd: int) -> bytes:
    sha256 = hashlib.sha256()
    offset = 0
    while data := os.pread(fd, _PIECE, offset):
        sha256.update(data)
        offset += len(data)
    return sha256.digest()


def _verified(fd: int, chunks: ChunkMap, number: int) -> Iterator[bool]:
    """Of each chunk of a file whether its bytes are there and right."""
    size = os.fstat(fd).st_size
    data_from = data_until = 0
    for chunk in chunks.index.chunks(number):
        if chunk.hole:
            yield True
            continue
        if chunk.offset >= data_until and chunk.end <= size:
            data_from = _next_data(fd, chunk.offset, size)
            data_until = os.lseek(fd, data_from, os.SEEK_HOLE) if data_from < size else size
        # The sparse file tells what was never written, so that a large file of which little is here is not read.
        if chunk.end > size or data_from >= chunk.end:
            yield False
            continue
        yield hashlib.sha256(os.pread(fd, chunk.size, chunk.offset)).digest() == chunk.sha256


def _next_data(fd: int, offset: int, size: int) -> int:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError:
        # ENXIO: nothing but a hole follows.
        return size
