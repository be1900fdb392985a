"""Whether a blob holds a layer that the store has already.

An image's manifest and its config are both the work of whoever made the image: that blob B stands beside DiffID D says nothing
of whether one becomes the other. Clients reuse a listed layer by its blob's digest for *any* image that names the blob, so one
image could have a stranger's layer run in another. Therefore a layer is only known by a blob that was fetched, hashed and
decompressed here. That a worker taken over by the blob could lie about what it became does no harm: who made that blob could
as well have put the same content into it.

Nothing is parsed and nothing is kept: the stream is only hashed, and given up where it gets longer than the layer is.
"""

from __future__ import annotations

import os

from als.errors import AlsError, DigestMismatch, WorkerError
from als.fetch.ingest import Advance, Pump, pipe
from als.fetch.source import ImageSource
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.manifest import Descriptor
from als.store.layers import LayerRecord
from als.worker.client import Workers
from als.worker.frames import DATA, END, FrameReader


def check_blob(
    source: ImageSource,
    descriptor: Descriptor,
    layer: LayerRecord,
    workers: Workers,
    advance: Advance,
    *,
    stall: float,
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Fetch a blob and hold what it decompresses to against a layer.

    :param stall: seconds without any progress after which it is given up.
    :raises DigestMismatch: the blob is not what the manifest promises, or holds another layer.
    :raises AlsError: it could not be fetched or decompressed.
    """
    where = str(descriptor.digest)
    blob_end, pump_end = pipe()
    frames_end, worker_end = pipe()
    try:
        worker = workers.stream(blob_end, worker_end, limits)
    finally:
        os.close(blob_end)
        os.close(worker_end)
    pump = Pump(source, descriptor, pump_end, advance)
    with worker:
        pump.start()
        try:
            found = _hashed(FrameReader(frames_end, pump.idle(stall, where)), layer)
        except AlsError as error:
            worker.kill()
            raise pump.cause_of(error, where) from error
        finally:
            worker.kill()
            os.close(frames_end)
            pump.join(stall)
    pump.check()
    if found != layer.diff_id:
        raise DigestMismatch(f"its content is {found}, the image's config promises {layer.diff_id}", where=where)


def _hashed(frames: FrameReader, layer: LayerRecord) -> Digest:
    """The digest of what a worker gives, which may not be more than the layer has."""
    hasher = layer.diff_id.hasher()
    size = 0
    for kind, body in frames.frames():
        if kind == END:
            break
        if kind != DATA or not body:
            raise WorkerError("a worker sent something that cannot follow")
        size += len(body)
        if size > layer.diff_size:
            raise DigestMismatch(f"it holds more than {layer.diff_id}, which the image's config promises")
        hasher.update(body)
    return Digest(layer.diff_id.algorithm, hasher.hexdigest())
