"""Making a layer: a blob is fetched, parsed, split into objects and described by an EROFS image, in one pass.

::

    source --bytes--> pump thread --pipe--> parse worker --runs--> this thread --> forest, recipe, Tree --> EROFS
                      hashes the blob       no privileges          hashes stream and files (Assembler), tar-split

Every digest is computed here, on the privileged side: the blob's by the pump, the stream's (DiffID) and each file's by the
assembler. Small files are hashed before they are written, so that one the store has already is never written at all. Memory
is bounded whatever the layer: one small file, and the buffers of three runs, of which one is read while the others are being
hashed and written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Collection

from als.erofs.identity import uuid_of
from als.erofs.profile import LAYER
from als.erofs.writer import write_image
from als.errors import AlsError, DeadlineExceeded, DigestMismatch, WorkerError
from als.fetch.assembler import KEPT, Assembler
from als.fetch.sealing import Sealing
from als.fetch.source import ImageSource
from als.fetch.splits import Splits
from als.fetch.writeback import Writeback
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.manifest import Descriptor
from als.model.tree import Tree
from als.store.layers import LayerRecord, Staging
from als.store.layout import TarSplitForm
from als.store.owners import owners_of
from als.store.recipe import RecipeWriter
from als.store.refused import store_errors
from als.verity.policy import UNSEALED, Policy
from als.worker.client import Worker, Workers
from als.worker.frames import FrameReader

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
    tar_splits: Collection[TarSplitForm] = (),
    policy: Policy = UNSEALED,
) -> LayerRecord:
    """Fill `staging` with the layer that `descriptor` and `diff_id` promise.

    :param stall: seconds without any progress after which it is given up.
    :param tar_splits: what clients will need; made here if it can be made in passing.
    :param policy: whether it is sealed with fs-verity.
    :raises DigestMismatch: the blob or its content is not what was promised.
    :raises BadImage: the layer is malformed or hostile.
    :raises AlsError: it could not be fetched or stored.
    """
    where = str(descriptor.digest)
    sealing = Sealing(policy, staging)
    # A worker can be made to lie about what it read, and holes cost a blob nothing: what a layer may expand to is bounded here.
    most = limits.expansion_floor + limits.expansion * descriptor.size
    limits = dataclasses.replace(limits, layer_bytes=min(limits.layer_bytes, most))
    worker, pump_end, frames_end = _parser(workers, format_name, limits)
    pump = Pump(source, descriptor, pump_end, advance)
    with (
        worker,
        store_errors(staging.path),
        staging.recipe.open("xb") as recipe_file,
        Splits(staging, tar_splits) as splits,
        contextlib.closing(Writeback(staging.path, sealing.objects)) as writeback,
    ):
        pump.start()
        assembler = Assembler(staging.forest, RecipeWriter(recipe_file), splits, writeback, limits, where)
        try:
            for kind, body in FrameReader(frames_end, pump.idle(stall, where), kept=KEPT).frames():
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
        names = _describe(staging, tree, splits, tar_splits, writeback, sealing, uuid_of(diff_id.hex))
        size = sum(staging.forest.sizes.values())
        blobs, verity = (descriptor.digest,), sealing.image()
        return LayerRecord(diff_id, assembler.stream_size, format_name, names, size, time.time(), blobs=blobs, verity=verity)


def _parser(workers: Workers, format_name: str, limits: Limits) -> tuple[Worker, int, int]:
    """A parser, where it takes the blob from, and where its frames come out."""
    blob_end, pump_end = pipe()
    frames_end, worker_end = pipe()
    try:
        return workers.parse(format_name, blob_end, worker_end, limits), pump_end, frames_end
    finally:
        os.close(blob_end)
        os.close(worker_end)


def _describe(
    staging: Staging,
    tree: Tree,
    splits: Splits,
    tar_splits: Collection[TarSplitForm],
    writeback: Writeback,
    sealing: Sealing,
    uuid: bytes,
) -> int:
    """Give the objects their names in the store, and write what follows from the tree; how many names it has."""
    try:
        if sealing.on:
            # The image holds the objects' fs-verity digests. Most of them are known by now.
            writeback.begin()
            writeback.settle()
        # Both at once: the objects keep the disk and one processor busy, the image another one.
        writeback.begin(staging.forest.commit)
        with staging.image.open("xb") as image:
            write_image(tree, image, LAYER, verity=sealing.digests, uuid=uuid if sealing.on else b"")
        names = dict(tree.walk())
        splits.finish(names)
        if TarSplitForm.IMAGE in tar_splits:
            staging.owners.write_text(json.dumps(owners_of(names.values())))
        writeback.settle()
    except BaseException:
        writeback.close()
        staging.forest.withdraw()
        raise
    return len(names)


class Pump(threading.Thread):
    """Moves a blob from its source into a worker, and hashes it on the way.

    :param fd: what the worker reads from; closed at the end.
    """

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


def pipe() -> tuple[int, int]:
    """A pipe's reading and writing end, of a size for blobs."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(PermissionError):
        # Fewer wake-ups; refused only to users who hold many pipes already.
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return read_end, write_end
