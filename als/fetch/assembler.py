"""What the privileged side makes of a parse worker's runs: objects, a recipe and a tree.

Nothing that a worker says is believed. The bytes lie in buffers of our own when they are hashed and written, every digest is
computed from these very bytes, and names, sizes and positions are checked by those who use them.

The thread that takes the runs hashes small files and writes large ones. Meanwhile a thread beside it hashes the stream of the
runs before and writes the small files of those, both without the GIL. It may be a run behind, for in one run the hashing takes
longer, in another the writing.
"""

from __future__ import annotations

import hashlib

from als.errors import BadImage, LimitExceeded, WorkerError
from als.fetch.splits import Splits
from als.fetch.writeback import Writeback
from als.model.builder import TreeBuilder
from als.model.digest import Digest
from als.model.entry import Entry, EntryType
from als.model.limits import Limits
from als.model.paths import show
from als.model.tree import Content, Tree
from als.store.beside import Beside
from als.store.objects import Forest, ObjectWriter
from als.store.recipe import ObjectPart, RecipeWriter
from als.store.tarsplit import checksum
from als.worker.frames import END, RUN
from als.worker.runs import unpack_run

INLINE_FILE = 64
"""Files of up to so many bytes live in the metadata image, as mkcomposefs has them."""
SMALL_FILE = 1 << 20
KEPT = 3
"""So many frames' bodies have to be valid at once: of the one being taken, the one being hashed, and the one before it."""


class Assembler:
    """Turns the worker's frames into objects, a recipe, tar-split files and a tree.

    A frame's body may be overwritten once `take` has returned for the second frame after it.
    """

    def __init__(
        self, forest: Forest, recipe: RecipeWriter, splits: Splits, writeback: Writeback, limits: Limits, where: str
    ) -> None:
        self._forest = forest
        self._beside = Beside("objects", ahead=1)
        self._writeback = writeback
        self._recipe = recipe
        self._splits = splits
        self._limits = limits
        self._where = where
        self._builder = TreeBuilder(limits)
        self._hash = hashlib.sha256()
        self._small: dict[bytes, bytearray | memoryview] = {}
        """Small files of the run that is being taken, to be written."""
        self._file: _File | None = None
        self._logical = 0
        self.stream_size = 0

    @property
    def diff_id(self) -> Digest:
        """Once `finish` has returned."""
        return Digest.sha256(self._hash.digest())

    def take(self, kind: int, body: memoryview) -> None:
        """The next frame."""
        if kind == END and self._file is None:
            return
        if kind != RUN:
            raise WorkerError("a worker sent something that cannot follow", where=self._where)
        entries, data = unpack_run(body)
        if not entries and not data:
            raise WorkerError("a worker sent nothing", where=self._where)
        self._count(len(data))
        at = self._fill(data, 0)
        for position, entry in entries:
            if self._file is not None or not at <= position <= len(data):
                raise WorkerError("a worker broke off a file", where=self._where)
            self._segment(data[at:position])
            at = self._begin(entry, data, position)
        self._segment(data[at:])
        self._hand_over(data)

    def finish(self) -> Tree:
        """The stream has ended well."""
        self._beside.wait()
        self._recipe.close()
        return self._builder.finish()

    def abandon(self) -> None:
        """The stream will not be continued."""
        if isinstance(self._file, _LargeFile):
            self._file.abandon()
        self._beside.close()

    def _segment(self, data: bytearray | memoryview) -> None:
        """Bytes of the stream that no object holds."""
        self._recipe.segment(data)
        self._splits.segment(data)

    def _hand_over(self, data: memoryview) -> None:
        """Have these bytes of the stream hashed, and the small files among them written."""
        small, self._small = self._small, {}

        def work() -> None:
            self._hash.update(data)
            self._forest.add_all(small)

        self._beside.run(work)

    def _count(self, length: int) -> None:
        self.stream_size += length
        self._writeback.reached(self.stream_size)
        if self.stream_size > self._limits.layer_bytes:
            raise LimitExceeded(f"more than {self._limits.layer_bytes} bytes", where=self._where)

    def _fill(self, data: memoryview, at: int) -> int:
        """Let the file that is being taken have its bytes; where what follows them begins."""
        file = self._file
        if file is None:
            return at
        end = min(at + file.left, len(data))
        file.write(data[at:end])
        if file.entry.extents is not None:
            # What an object holds, but not as one piece.
            self._splits.segment(data[at:end])
        if file.left == 0:
            self._end_file(file)
        return end

    def _begin(self, entry: Entry, data: memoryview, at: int) -> int:
        """The next entry, whose own bytes begin at `at`; where what follows those of them that are here begins."""
        if entry.type is not EntryType.FILE or entry.size == 0:
            self._builder.add(entry)
            if entry.stored:
                raise BadImage("content of something that has none", where=f"{self._where} {show(entry.path)}")
            return at
        self._logical += entry.size
        if entry.size > self._limits.file_bytes or self._logical > self._limits.layer_bytes:
            raise LimitExceeded("its files are larger than allowed", where=f"{self._where} {show(entry.path)}")
        if entry.extents is not None or entry.size > SMALL_FILE:
            self._file = _LargeFile(entry, self._forest.writer())
            return self._fill(data, at)
        if entry.stored != entry.size:
            raise WorkerError("a worker declared a file of two sizes", where=self._where)
        end = at + entry.size
        if end > len(data):
            self._file = _SmallFile(entry)
            return self._fill(data, at)
        # As nearly every file: all of it is here, and stays here until it is written.
        self._add_small(entry, data[at:end])
        return end

    def _end_file(self, file: _File) -> None:
        self._file = None
        entry = file.entry
        if isinstance(file, _SmallFile):
            self._add_small(entry, file.data)
            return
        if entry.size <= SMALL_FILE:
            # A sparse file: the same content may just be on its way as a small one.
            self._hand_over(memoryview(b""))
            self._beside.wait()
        sha256 = file.finish()
        for offset, length in entry.extents if entry.extents is not None else ((0, entry.size),):
            self._recipe.object(ObjectPart(sha256, offset, length))
        if entry.extents is None:
            self._splits.file(entry.path, sha256, entry.size, file.crc, None)
        self._builder.add(entry, content=Content.of_sha256(sha256))

    def _add_small(self, entry: Entry, data: bytearray | memoryview) -> None:
        """A file that is small, and here."""
        if len(data) <= INLINE_FILE:
            self._segment(data)
            self._builder.add(entry, data=bytes(data))
            return
        sha256 = hashlib.sha256(data).digest()
        self._small[sha256] = data
        self._recipe.object(ObjectPart(sha256, 0, entry.size))
        self._splits.file(entry.path, sha256, entry.size, checksum(data), data)
        self._builder.add(entry, content=Content.of_sha256(sha256))


class _SmallFile:
    """A file whose bytes come in several runs, and are held in memory."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.left = entry.size
        self.data = bytearray()

    def write(self, data: memoryview) -> None:
        """At most `left` bytes; they may be overwritten afterwards."""
        self.data += data
        self.left -= len(data)


class _LargeFile:
    """A file that is written as it comes, holes left out."""

    def __init__(self, entry: Entry, writer: ObjectWriter) -> None:
        self.entry = entry
        self.left = entry.stored
        self._writer = writer
        self._extents = list(entry.extents if entry.extents is not None else ((0, entry.size),))
        self._position = 0
        self.crc = 0
        """See :func:`als.store.tarsplit.checksum`; of what was written, without holes."""
        end = 0
        for offset, length in self._extents:
            if offset < end or offset + length > entry.size:
                raise BadImage("the map of a sparse file is out of order", where=show(entry.path))
            end = offset + length
        if sum(length for _, length in self._extents) != entry.stored:
            raise BadImage("the map of a sparse file does not fit its content", where=show(entry.path))

    def write(self, data: memoryview) -> None:
        """At most `left` bytes."""
        self.left -= len(data)
        self.crc = checksum(data, self.crc)
        while data:
            offset, length = self._extents[0]
            if self._position < offset:
                self._writer.hole(offset - self._position)
                self._position = offset
            step = min(len(data), offset + length - self._position)
            self._writer.write(data[:step])
            self._position += step
            data = data[step:]
            if self._position == offset + length:
                self._extents.pop(0)

    def finish(self) -> bytes:
        if self._position < self.entry.size:
            self._writer.hole(self.entry.size - self._position)
        return self._writer.finish()

    def abandon(self) -> None:
        self._writer.abandon()


_File = _SmallFile | _LargeFile
