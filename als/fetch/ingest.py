"""Making a layer: a blob is fetched, parsed, split into objects and described by an EROFS image, in one pass.

::

    source --bytes--> pump thread --pipe--> parse worker --frames--> this thread --> forest, recipe, Tree --> EROFS
                      hashes the blob       no privileges            hashes stream and files

Every digest is computed here, on the privileged side: the blob's by the pump, the stream's (DiffID) and each file's by
the thread that writes them. Files of up to `SMALL_FILE` bytes are hashed before they are written, so that one the store
has already is never written at all. Memory is bounded whatever the layer: one small file, and buffers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import threading
import time
from collections.abc import Callable

from als.erofs.profile import LAYER
from als.erofs.writer import write_image
from als.errors import AlsError, BadImage, DeadlineExceeded, DigestMismatch, LimitExceeded, WorkerError
from als.fetch.source import ImageSource
from als.fetch.streamhash import StreamHash
from als.fetch.writeback import Writeback
from als.model.builder import TreeBuilder
from als.model.digest import Digest
from als.model.entry import Entry, EntryType
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.manifest import Descriptor
from als.model.paths import show
from als.model.tree import Content, Tree
from als.store.beside import SmallObjects
from als.store.layers import LayerRecord, Staging
from als.store.objects import ObjectWriter
from als.store.recipe import ObjectPart, RecipeWriter
from als.store.refused import store_errors
from als.worker.client import Workers
from als.worker.frames import BEGIN, END, PAYLOAD, SEGMENT, FrameReader, unpack_entry

INLINE_FILE = 64
"""Files of up to so many bytes live in the metadata image, as mkcomposefs has them."""
SMALL_FILE = 1 << 20
_PIPE_SIZE = 1 << 20

Advance = Callable[[int], None]
"""Told how many bytes of the blob have arrived since the last call."""


def ingest(
    source: ImageSource,
    descriptor: Descriptor,
    diff_id: Digest,
    format_name: str,
    staging: Staging,
    workers: Workers,
    advance: Advance,
    *,
    stall: float,
    limits: Limits = DEFAULT_LIMITS,
) -> LayerRecord:
    """Fill `staging` with the layer that `descriptor` and `diff_id` promise.

    :param stall: seconds without any progress after which it is given up.
    :raises DigestMismatch: the blob or its content is not what was promised.
    :raises BadImage: the layer is malformed or hostile.
    :raises AlsError: it could not be fetched or stored.
    """
    where = str(descriptor.digest)
    # A worker can be made to lie about what it read, and holes cost a blob nothing: what a layer may expand to is bounded here.
    most = limits.expansion_floor + limits.expansion * descriptor.size
    limits = dataclasses.replace(limits, layer_bytes=min(limits.layer_bytes, most))
    blob_end, pump_end = _pipe()
    frames_end, worker_end = _pipe()
    try:
        worker = workers.parse(format_name, blob_end, worker_end, limits)
    finally:
        os.close(blob_end)
        os.close(worker_end)
    pump = _Pump(source, descriptor, pump_end, advance)
    with worker, store_errors(staging.path), staging.recipe.open("xb") as recipe_file:
        pump.start()
        assembler = _Assembler(staging, RecipeWriter(recipe_file), limits, where)
        try:
            reader = FrameReader(frames_end, pump.idle(stall, where))
            for kind, body in reader.frames():
                assembler.take(kind, body)
            tree = assembler.finish()
        except AlsError as error:
            worker.kill()
            raise pump.cause_of(error, where) from error
        finally:
            assembler.abandon()
            worker.kill()
            os.close(frames_end)
            pump.join(stall)
        pump.check()
        if assembler.diff_id != diff_id:
            raise DigestMismatch(f"its content is {assembler.diff_id}, the image's config promises {diff_id}", where=where)
        return _describe(staging, tree, diff_id, assembler, format_name)


def _describe(staging: Staging, tree: Tree, diff_id: Digest, assembler: _Assembler, format_name: str) -> LayerRecord:
    with staging.image.open("xb") as image:
        write_image(tree, image, LAYER)
    sizes = staging.forest.sizes
    names = sum(1 for _ in tree.walk())
    return LayerRecord(diff_id, assembler.stream_size, format_name, names, sum(sizes.values()), time.time())


class _Pump(threading.Thread):
    """Moves a blob from its source into the parse worker, and hashes it on the way."""

    def __init__(self, source: ImageSource, descriptor: Descriptor, fd: int, advance: Advance) -> None:
        super().__init__(name=f"pump {descriptor.digest.hex[:12]}", daemon=True)
        self._source = source
        self._descriptor = descriptor
        self._fd = fd
        self._advance = advance
        self._error: AlsError | None = None
        self._unread = False
        self._last = time.monotonic()

    def run(self) -> None:
        try:
            self._pump()
        except AlsError as error:
            self._error = error
        except OSError as error:
            self._error = WorkerError(f"the blob could not be read: {error}", where=str(self._descriptor.digest))
        finally:
            os.close(self._fd)

    def _pump(self) -> None:
        hasher = self._descriptor.digest.hasher()
        size = 0
        for piece in self._source.blob(self._descriptor):
            self._last = time.monotonic()
            size += len(piece)
            if size > self._descriptor.size:
                break
            hasher.update(piece)
            view = memoryview(piece)
            try:
                while view:
                    view = view[os.write(self._fd, view) :]
                    self._last = time.monotonic()
            except BrokenPipeError:
                # The worker stopped reading: it found an error, which is reported from there.
                self._unread = True
                return
            self._advance(len(piece))
        where = str(self._descriptor.digest)
        if size != self._descriptor.size:
            more = "more than " if size > self._descriptor.size else ""
            raise DigestMismatch(f"{more}{size} bytes came, the manifest promises {self._descriptor.size}", where=where)
        if hasher.hexdigest() != self._descriptor.digest.hex:
            raise DigestMismatch("the bytes that came have another digest", where=where)

    def idle(self, stall: float, where: str) -> Callable[[], None]:
        """What a reader of the worker's frames asks while none come."""

        def check() -> None:
            if self._error is not None:
                raise self._error
            if time.monotonic() - self._last > stall:
                raise DeadlineExceeded(f"no progress for {stall:.0f} seconds", where=where)

        return check

    def cause_of(self, error: AlsError, where: str) -> AlsError:
        """The error to report when the worker's frames ended with `error`: a broken download explains a torn stream."""
        self.join(0.5)
        cause = self._error or error
        return cause if cause.where else type(cause)(cause.what, where=where, hint=cause.hint)

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        if self._error is not None:
            raise self._error
        if self.is_alive():
            raise DeadlineExceeded("the download did not end", where=str(self._descriptor.digest))
        if self._unread:
            raise WorkerError("a worker was content with a part of the blob", where=str(self._descriptor.digest))


class _Assembler:
    """Turns the worker's frames into objects, a recipe and a tree."""

    def __init__(self, staging: Staging, recipe: RecipeWriter, limits: Limits, where: str) -> None:
        self._forest = staging.forest
        self._small = SmallObjects(staging.forest)
        self._writeback = Writeback(staging.path)
        self._recipe = recipe
        self._limits = limits
        self._where = where
        self._builder = TreeBuilder(limits)
        self._hash = StreamHash()
        self._digest = b""
        self._file: _File | None = None
        self._logical = 0
        self.stream_size = 0

    @property
    def diff_id(self) -> Digest:
        return Digest.sha256(self._digest)

    def take(self, kind: int, body: memoryview) -> None:
        """The next frame."""
        if not body:
            raise WorkerError("a worker sent nothing", where=self._where)
        if kind == PAYLOAD and self._file is not None:
            self._count(len(body))
            self._hash.update(body)
            self._file.write(body)
            if self._file.left == 0:
                self._end_file(self._file)
        elif self._file is not None:
            raise WorkerError("a worker broke off a file", where=self._where)
        elif kind == SEGMENT:
            self._count(len(body))
            self._hash.update(body)
            self._recipe.segment(body)
        elif kind == BEGIN:
            self._begin(unpack_entry(body))
        elif kind != END:
            raise WorkerError("a worker sent something that cannot follow", where=self._where)

    def finish(self) -> Tree:
        """The stream has ended well."""
        self._small.settle()
        self._writeback.settle()
        self._digest = self._hash.digest()
        self._recipe.close()
        return self._builder.finish()

    def abandon(self) -> None:
        """The stream will not be continued."""
        if isinstance(self._file, _LargeFile):
            self._file.abandon()
        self._hash.close()
        self._small.close()
        self._writeback.close()

    def _count(self, length: int) -> None:
        self.stream_size += length
        self._writeback.reached(self.stream_size)
        if self.stream_size > self._limits.layer_bytes:
            raise LimitExceeded(f"more than {self._limits.layer_bytes} bytes", where=self._where)

    def _begin(self, entry: Entry) -> None:
        if entry.type is not EntryType.FILE or entry.size == 0:
            self._builder.add(entry)
            if entry.stored:
                raise BadImage("content of something that has none", where=f"{self._where} {show(entry.path)}")
            return
        self._logical += entry.size
        if entry.size > self._limits.file_bytes or self._logical > self._limits.layer_bytes:
            raise LimitExceeded("its files are larger than allowed", where=f"{self._where} {show(entry.path)}")
        if entry.extents is None and entry.size <= SMALL_FILE:
            self._file = _SmallFile(entry)
        else:
            self._file = _LargeFile(entry, self._forest.writer())
        if self._file.left == 0:
            self._end_file(self._file)

    def _end_file(self, file: _File) -> None:
        self._file = None
        entry = file.entry
        if isinstance(file, _SmallFile):
            data = file.data
            if len(data) <= INLINE_FILE:
                self._recipe.segment(data)
                self._builder.add(entry, data=data)
                return
            sha256 = self._small.add(data)
            self._recipe.object(ObjectPart(sha256, 0, entry.size))
        else:
            if entry.size <= SMALL_FILE:
                # A sparse file: the same content may just be on its way as a small one.
                self._small.settle()
            sha256 = file.finish()
            for offset, length in entry.extents if entry.extents is not None else ((0, entry.size),):
                self._recipe.object(ObjectPart(sha256, offset, length))
        self._builder.add(entry, content=Content.of_sha256(sha256))


class _SmallFile:
    """A file that is gathered in memory."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.left = entry.size
        self._parts: list[bytes] = []
        if entry.stored != entry.size:
            raise WorkerError("a worker declared a file of two sizes")

    @property
    def data(self) -> bytes:
        """All that was written."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def write(self, data: memoryview) -> None:
        if len(data) > self.left:
            raise WorkerError("a worker sent more content than it declared")
        self.left -= len(data)
        self._parts.append(bytes(data))


class _LargeFile:
    """A file that is written as it comes, holes left out."""

    def __init__(self, entry: Entry, writer: ObjectWriter) -> None:
        self.entry = entry
        self.left = entry.stored
        self._writer = writer
        self._extents = list(entry.extents if entry.extents is not None else ((0, entry.size),))
        self._position = 0
        end = 0
        for offset, length in self._extents:
            if offset < end or offset + length > entry.size:
                raise BadImage("the map of a sparse file is out of order", where=show(entry.path))
            end = offset + length
        if sum(length for _, length in self._extents) != entry.stored:
            raise BadImage("the map of a sparse file does not fit its content", where=show(entry.path))

    def write(self, data: memoryview) -> None:
        if len(data) > self.left:
            raise WorkerError("a worker sent more content than it declared")
        self.left -= len(data)
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


def _pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(PermissionError):
        # Fewer wake-ups; refused only to users who hold many pipes already.
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return read_end, write_end
