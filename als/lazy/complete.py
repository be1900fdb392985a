"""When all files of a lazy layer are here: the layer is shown to be what was promised, and becomes one like any other.

Its DiffID is computed from its stream, which is its files and what lies between them. That is in the tar-split, to which the
table of contents commits, or was kept as units came (:mod:`als.lazy.rest`); what is missing of it is fetched now. Of eStargz
that means the units of files, too, that were found in the store. The headers of the stream and the index have to tell of the
same layer (:mod:`als.formats.headercheck`); a worker without privileges compares them.

The finished layer is made beside the lazy one of hardlinks and published like every other; those who use the lazy one are not
disturbed, and may be led over one by one.

Where there is a tar-split, every byte has a digest to which the manifest commits, and a layer whose DiffID does not match is
refused for ever. Elsewhere the bytes beside the files have none, and may have come wrong. So the blob is then fetched whole,
and its own digest decides who lies.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from als.errors import BadImage, DeadlineExceeded, DigestMismatch, RegistryError, StoreDamaged, WorkerError
from als.formats.codecs import Compression
from als.formats.indexfile import pack
from als.formats.units import stream_ranges
from als.lazy.cutter import Cutter
from als.lazy.layer import REST_MAX, LazyLayer
from als.lazy.ranges import Ranges
from als.lazy.rest import beside
from als.lazy.store import LazyStore
from als.model.digest import Digest
from als.model.forest import FOREST
from als.store.layers import LayerRecord, Layers, Staging
from als.store.layout import Layout
from als.store.lock import locked
from als.store.objects import add_to_forest
from als.store.recipe import ObjectPart, RecipeWriter
from als.store.refused import store_errors
from als.verity.existing import seal_copy
from als.verity.policy import UNSEALED, Policy
from als.worker.client import Workers
from als.worker.frames import DATA, END, FrameReader
from als.worker.inflate import Compressed
from als.worker.seal_job import FILE, LENGTH, RECORD

log = logging.getLogger("als.lazy")

_GAP_MAX = 1 << 30
_PIECE = 1 << 20
_STALL = 120.0
_LOCK_TIMEOUT = 900.0


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes of an entry's file belong here."""

    number: int
    offset: int
    size: int


class Sealer:
    """Makes finished layers of lazy ones. The caller holds the store's lock shared.

    :param fetch_stall: seconds without any progress after which what is missing beside the files is given up for now.
    """

    def __init__(
        self,
        layout: Layout,
        layers: Layers,
        lazy: LazyStore,
        workers: Workers,
        *,
        fetch_stall: float = 60.0,
        policy: Policy = UNSEALED,
    ) -> None:
        self._layout = layout
        self._layers = layers
        self._lazy = lazy
        self._workers = workers
        self._fetch_stall = fetch_stall
        self._policy = policy

    def missing(self, layer: LazyLayer) -> int:
        """Bytes of the blob that are still to be fetched for nothing but the DiffID."""
        if layer.index.tar_split is not None:
            return layer.index.tar_split.length
        return sum(end - start for _, start, end, _ in _missing(layer))

    def seal(self, layer: LazyLayer) -> LayerRecord:
        """Verify a layer all of whose files are here, and publish it in ROOT/layers. Its lazy folder stays as it is.

        :raises DigestMismatch: it is not what was promised; it is refused for ever, and must not be shown any more.
        :raises BadImage: the same.
        :raises RegistryError: what is missing does not come.
        :raises AlsError: not now.
        """
        if not layer.content.done() or layer.refused is not None:
            raise layer.refused or BadImage("not all files of the layer are here", where=layer.where)
        try:
            return self._seal(layer)
        except BadImage as error:
            if layer.rest is None:
                self._lazy.refuse(layer, error)
                raise
            log.info("%s is looked at more closely: %s", layer.where, error)
        self._prove(layer)
        try:
            record = self._seal(layer)
        except BadImage as error:
            self._lazy.refuse(layer, error)
            raise
        log.warning("%s %s: bytes beside the files had come wrong, and were fetched again", layer.where, layer.digest)
        return record

    def _seal(self, layer: LazyLayer) -> LayerRecord:
        with locked(self._layout.locks / layer.record.diff_id.hex, timeout=_LOCK_TIMEOUT):
            if self._layers.has(layer.record.diff_id):
                return self._layers.get(layer.record.diff_id)
            layer.commit()
            with self._layers.stage() as staging, store_errors(staging.path):
                stream = _Stream(layer)
                with staging.recipe.open("xb") as file:
                    stream.write(self._parts(layer), RecipeWriter(file))
                if stream.diff_id != layer.record.diff_id:
                    where = f"{layer.where} {layer.digest}"
                    what = f"its content is {stream.diff_id}, the image's config promises {layer.record.diff_id}"
                    raise DigestMismatch(what, where=where)
                staging.complete(self._fill(layer, staging, stream))
                self._layers.show([staging])
        return self._layers.get(layer.record.diff_id)

    def _fill(self, layer: LazyLayer, staging: Staging, stream: _Stream) -> LayerRecord:
        add_to_forest(layer.folder.forest, staging.path / "diff1")
        diff_id, index, made = layer.record.diff_id, layer.index, time.time()
        verity = seal_copy(self._policy, layer.folder.image, staging.path / "diff1", diff_id.hex, staging.image)
        if not verity:
            os.link(layer.folder.image, staging.image)
        return LayerRecord(diff_id, stream.size, layer.record.format, len(index), layer.progress.bytes, made, verity=verity)

    # -- the stream

    def _parts(self, layer: LazyLayer) -> Iterator[bytes | _Part]:
        if layer.index.tar_split is not None:
            yield from self._from_tar_split(layer)
            return
        self._fetch_rest(layer)
        yield from self._checked(layer, _from_rest(layer))

    def _from_tar_split(self, layer: LazyLayer) -> Iterator[bytes | _Part]:
        where = layer.index.tar_split
        assert where is not None
        found = bytearray()

        def keep(_: int, data: bytearray) -> None:
            hasher = where.digest.hasher()
            hasher.update(data)
            if hasher.hexdigest() != where.digest.hex:
                raise DigestMismatch("the tar-split is not the one that the table of contents commits to")
            found[:] = data

        end = where.offset + where.length
        ranges = Ranges(layer, "tar-split", [(where.offset, end, where.length)], Compression.NONE, keep)
        try:
            ranges.fetch(self._fetch_stall)
        except BadImage as error:
            # Its digest is known: whatever else comes is not the layer's fault.
            raise RegistryError(error.what, where=error.where) from error
        with self._worker(layer, "tar-split") as (link, reader):
            _send(link, bytes(found))
            link.shutdown(socket.SHUT_WR)
            for kind, body in reader:
                if kind == DATA:
                    yield bytes(body)
                elif kind == FILE and len(body) == LENGTH.size:
                    (number,) = LENGTH.unpack(body)
                    if number >= len(layer.index) or not layer.index.size(number):
                        raise WorkerError("a seal worker named a file that there is not", where=layer.where)
                    yield _Part(number, 0, layer.index.size(number))
                elif kind != END:
                    raise WorkerError("a seal worker broke the protocol", where=layer.where)

    def _fetch_rest(self, layer: LazyLayer) -> None:
        rest, index = layer.rest, layer.index
        assert rest is not None
        missing = _missing(layer)

        def keep(at: int, data: bytearray) -> None:
            number = missing[at][0]
            chunks = [chunk for _, chunk in index.chunks_in(number)] if number < index.units else []
            if chunks and len(data) < chunks[-1].inner_offset + chunks[-1].size:
                raise BadImage("the data end before their last chunk does")
            rest.add(number, beside(data, chunks))

        ranges = [(start, end, most) for _, start, end, most in missing]
        Ranges(layer, "rest", ranges, index.compression, keep).fetch(self._fetch_stall)

    def _checked(self, layer: LazyLayer, parts: Iterator[bytes | _Part]) -> Iterator[bytes | _Part]:
        """The same parts, while a worker compares the headers among them with the index."""
        with self._worker(layer, "rest") as (link, reader):
            for part in parts:
                # A worker that found an error reads no more; what it has to say comes below.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    if isinstance(part, bytes):
                        _send(link, RECORD.pack(b"S", len(part)) + part)
                    else:
                        _send(link, RECORD.pack(b"F", part.size))
                yield part
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_WR)
            for kind, _ in reader:
                if kind != END:
                    raise WorkerError("a seal worker broke the protocol", where=layer.where)

    @contextlib.contextmanager
    def _worker(self, layer: LazyLayer, kind: str) -> Iterator[tuple[socket.socket, Iterator[tuple[int, memoryview]]]]:
        """A seal worker that has the index."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                worker = self._workers.seal(kind, theirs.fileno(), theirs.fileno())
            with worker:
                ours.settimeout(_STALL)
                pieces = list(pack(layer.index))
                _send(ours, LENGTH.pack(sum(map(len, pieces))))
                for piece in pieces:
                    _send(ours, piece)
                yield ours, _frames(ours, layer.where)

    # -- when in doubt

    def _prove(self, layer: LazyLayer) -> None:
        """Fetch the blob whole: whoever is wrong, its digest tells. Afterwards what lies beside the files is right.

        :raises DigestMismatch: the layer is not what its image's config promises; it is refused for ever.
        :raises RegistryError: the registry serves something else under this digest.
        """
        rest, index = layer.rest, layer.index
        assert rest is not None
        rest.clear()
        hasher, stream = layer.digest.hasher(), hashlib.sha256()
        numbers = _numbered(layer)
        cutter = Cutter([start for _, start, _, _ in numbers], [end for _, _, end, _ in numbers], 0, range(len(numbers)))
        source = layer.source()
        with (
            contextlib.closing(source.range(layer.digest, 0, layer.blob_size, layer.engine.check)) as blob,
            layer.engine.inflater(fresh=True) as inflater,
        ):
            for piece in blob.pieces():
                hasher.update(piece)
                layer.served(blob.place, len(piece))
                for at, data in cutter.feed(piece):
                    number, _, _, most = numbers[at]
                    (found,) = inflater.inflate(index.compression, [Compressed(data, most)], whole=True)
                    if isinstance(found, bytearray):
                        stream.update(found)
                        chunks = [chunk for _, chunk in index.chunks_in(number)] if number < index.units else []
                        rest.add(number, beside(found, chunks))
        if hasher.hexdigest() != layer.digest.hex:
            rest.clear()
            raise RegistryError(
                "the registry serves other bytes under this digest", where=f"{layer.where} {layer.digest} from {blob.place}"
            )
        found_id = Digest.sha256(stream.digest())
        if found_id != layer.record.diff_id:
            error = DigestMismatch(
                f"its content is {found_id}, the image's config promises {layer.record.diff_id}",
                where=f"{layer.where} {layer.digest}",
            )
            self._lazy.refuse(layer, error)
            raise error


class _Stream:
    """A layer's stream, put together from files and what lies between them."""

    def __init__(self, layer: LazyLayer) -> None:
        self._layer = layer
        self._forest = f"{layer.folder.forest}/{FOREST}/"
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def diff_id(self) -> Digest:
        return Digest.sha256(self._hash.digest())

    def write(self, parts: Iterator[bytes | _Part], recipe: RecipeWriter) -> None:
        """Compute the DiffID, and write down what rebuilds the stream."""
        pending: _Part | None = None
        for part in parts:
            if isinstance(part, bytes):
                if not part:
                    continue
                self._flush(pending, recipe)
                pending = None
                self._hash.update(part)
                self.size += len(part)
                recipe.segment(part)
            elif pending is not None and (pending.number, pending.offset + pending.size) == (part.number, part.offset):
                pending = _Part(pending.number, pending.offset, pending.size + part.size)
            else:
                self._flush(pending, recipe)
                pending = part
        self._flush(pending, recipe)
        recipe.close()

    def _flush(self, part: _Part | None, recipe: RecipeWriter) -> None:
        if part is None:
            return
        index = self._layer.index
        sha256 = index.sha256(part.number)
        path = self._forest + index.content_name(part.number).hex()
        own = hashlib.sha256()
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if sha256 is None:
                for data in _bytes_of(fd, 0, index.size(part.number)):
                    own.update(data)
            for data in _bytes_of(fd, part.offset, part.size):
                self._hash.update(data)
        finally:
            os.close(fd)
        self.size += part.size
        recipe.object(ObjectPart(sha256 or own.digest(), part.offset, part.size))


def _bytes_of(fd: int, offset: int, size: int) -> Iterator[bytes]:
    end = offset + size
    while offset < end:
        data = os.pread(fd, min(_PIECE, end - offset), offset)
        if not data:
            raise StoreDamaged("a file of a lazy layer is shorter than it was", hint="pull the image again")
        offset += len(data)
        yield data


def _numbered(layer: LazyLayer) -> list[tuple[int, int, int, int]]:
    """Every range of the stream, in order: its number in the rest, where it begins and ends, the most that comes out of it."""
    index = layer.index
    found: list[tuple[int, int, int, int]] = []
    gap = index.units
    for each in stream_ranges(index):
        number, most = each.unit, _GAP_MAX
        if number is None:
            number, gap = gap, gap + 1
        else:
            most = max(chunk.inner_offset + chunk.size for _, chunk in index.chunks_in(number)) + REST_MAX
        found.append((number, each.offset, each.offset + each.length, most))
    return found


def _missing(layer: LazyLayer) -> list[tuple[int, int, int, int]]:
    assert layer.rest is not None
    return [each for each in _numbered(layer) if not layer.rest.has(each[0])]


def _from_rest(layer: LazyLayer) -> Iterator[bytes | _Part]:
    """The stream, from what was kept of it and the files."""
    index, rest = layer.index, layer.rest
    assert rest is not None
    for number, _, _, _ in _numbered(layer):
        data = rest.get(number)
        position = taken = 0
        for entry, chunk in index.chunks_in(number) if number < index.units else ():
            before = chunk.inner_offset - position
            yield data[taken : taken + before]
            taken += before
            yield _Part(entry, chunk.offset, chunk.size)
            position = chunk.inner_offset + chunk.size
        yield data[taken:]


def _send(link: socket.socket, data: bytes) -> None:
    try:
        link.sendall(data)
    except TimeoutError as error:
        raise DeadlineExceeded(f"a seal worker took nothing for {_STALL:.0f} seconds") from error


def _frames(link: socket.socket, where: str) -> Iterator[tuple[int, memoryview]]:
    """What a worker answers."""
    last = time.monotonic()

    def idle() -> None:
        if time.monotonic() - last > _STALL:
            raise DeadlineExceeded(f"a seal worker said nothing for {_STALL:.0f} seconds", where=where)

    for frame in FrameReader(link.fileno(), idle).frames():
        yield frame
        last = time.monotonic()
