"""Tables of contents: read from a layer's blob, and held to what the layer shows.

A client of the layer store identifies a layer by the digest of its table of contents alone, whatever image asked for it. That
digest is an annotation in the manifest: whoever makes an image can write there what another image has, and would have the
other's containers run on his layer. So a layer is only found by a digest if the table of that digest was read and tells of
what the layer shows. What is compared is the layer's own EROFS image, the one that gets mounted, whoever made it from what.

The bytes pass through here on their way between sandboxed processes (:mod:`als.worker.toc_job` says which and why), and are
hashed here: compressed ones before anybody reads them, the text on its way to the one who says what it means. What comes back
is checked as any index file is (:mod:`als.formats.indexfile`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file
from als.errors import AlsError, BadImage, LimitExceeded, NotFound, Unsupported, WorkerError
from als.fetch.source import ImageSource
from als.fetch.tocmatch import difference
from als.fetch.workerlink import WorkerLink
from als.formats.discovery import find_indexed, indexed_format_of
from als.formats.estargz.external import toc_layer, toc_tag
from als.formats.index import LayerIndex
from als.formats.indexfile import unpack
from als.formats.lazy import BlobRange, IndexedFormat, TocDigests, check_toc, other_toc, tree_of
from als.model.digest import Digest, Hasher
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.manifest import STARGZ_TOC, Descriptor, Manifest, parse_manifest, toc_digest
from als.registry.source import RawManifest
from als.worker.client import Workers
from als.worker.frames import read_json
from als.worker.toc_job import ASK, FOUND, LENGTH, TocRequest, pack_found, unpack_found

_KEPT = 16 << 20
"""The table of contents of a hundred thousand files, compressed, is within so many bytes of a blob's end."""
_INDEX_MAX = 2 << 30
_ASKS = 4
_UNCOMMITTED = 4096
"""More than a footer has."""
_PIECE = 1 << 20


class _Through:
    """A source that stands before another one, which is not its to close."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def manifest(self, name: str) -> RawManifest:
        return self._source.manifest(name)

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        return self._source.blob(descriptor)

    def close(self) -> None:
        """Nothing is this one's."""


class TailKept(_Through):
    """A source that remembers the end of the blob that is read through it: a table of contents is there, and need not be asked
    for again. It makes no difference then whether the registry knows ranges.

    :param kept: bytes to remember at least, if the blob has as many.
    """

    def __init__(self, source: ImageSource, kept: int = _KEPT) -> None:
        super().__init__(source)
        self._kept = kept
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._end = 0
        self._digest: Digest | None = None

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        self._pieces.clear()
        self._size, self._end, self._digest = 0, 0, descriptor.digest
        for piece in self._source.blob(descriptor):
            self._pieces.append(piece)
            self._size += len(piece)
            self._end += len(piece)
            while self._size - len(self._pieces[0]) >= self._kept:
                self._size -= len(self._pieces.popleft())
            yield piece

    def read_at(self, descriptor: Descriptor, offset: int, length: int) -> bytes:
        start = self._end - self._size
        if (self._digest, self._end) != (descriptor.digest, descriptor.size) or offset < start:
            return self._source.read_at(descriptor, offset, length)
        return b"".join(self._pieces)[offset - start : offset - start + length]


class Asked(_Through):
    """A source of which one range was asked for beforehand.

    :param answer: the bytes of `asked` within the blob; its errors are those of :meth:`ImageSource.read_at`.
    """

    def __init__(self, source: ImageSource, layer: Descriptor, asked: BlobRange, answer: Future[bytes]) -> None:
        super().__init__(source)
        self._layer = layer
        self._asked = asked
        self._answer = answer

    def read_at(self, descriptor: Descriptor, offset: int, length: int) -> bytes:
        if (descriptor.digest, BlobRange(offset, length)) == (self._layer.digest, self._asked):
            return self._answer.result()
        return self._source.read_at(descriptor, offset, length)


def first_range(layer: Descriptor, wanted: IndexedFormat, limits: Limits) -> BlobRange | None:
    """What a finder will ask for first, as far as that is told by the manifest alone: so nobody has to wait for the finder.

    :param wanted: the layer's format.
    :returns: None where it is no range of the blob, or the finder will refuse the layer.
    """
    try:
        request = next(wanted.find(layer, limits))
    except AlsError:
        return None
    return request if isinstance(request, BlobRange) else None


def check_layer(
    source: ImageSource,
    layer: Descriptor,
    image: Path,
    workers: Workers,
    *,
    tag: str,
    stall: float,
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Hold a layer of the store to the table of contents that its manifest commits to.

    :param image: the layer's EROFS image.
    :raises BadImage: they tell of different things; the error says which.
    :raises AlsError: the table cannot be read, see :func:`read_index`.
    """
    index = read_index(source, layer, workers, tag=tag, stall=stall, limits=limits)
    toc = toc_digest(layer)
    if index is None or toc not in [commitment.digest for commitment in index.commitments]:
        raise Unsupported("a layer of this media type has no table of contents", where=str(layer.digest))
    found = difference(tree_of(index, limits), read_image_file(image, LAYER), toc if STARGZ_TOC in layer.annotations else None)
    if found:
        raise BadImage(f"the table of contents and the layer differ: {found}", where=str(layer.digest))


def read_index(
    source: ImageSource,
    layer: Descriptor,
    workers: Workers,
    *,
    tag: str,
    stall: float,
    limits: Limits = DEFAULT_LIMITS,
    rows: Callable[[], int | None] = lambda: None,
) -> LayerIndex | None:
    """The index of a layer, verified against the digests that its manifest states; None: its format has none.

    :param tag: of the layer's image, for a table of contents in another image; "" where there is no tag.
    :param stall: seconds without any progress after which it is given up.
    :param rows: gives a descriptor to which the entries are written as they come, for an image to be made of them.
    :raises BadImage: the table of contents is malformed or hostile.
    :raises DigestMismatch: it is not the one that the manifest commits to.
    :raises AlsError: it could not be fetched, or cannot serve lazily.
    """
    wanted = indexed_format_of(find_indexed(), layer.media_type, layer.annotations)
    if wanted is None:
        return None
    digests = wanted.digests(layer)
    where = str(layer.digest)
    request = TocRequest(wanted.name, layer, limits).to_json()
    with WorkerLink(lambda fd: workers.find_toc(request, fd), stall, where) as finder:
        found = _Answers(source, layer, digests, tag, limits).serve(finder)
        with WorkerLink(lambda fd: workers.index_toc({**request, "found": found}, fd, rows()), stall, where) as indexer:
            _pass_on(finder, indexer, digests, layer, limits)
            data = b"".join(indexer.data(_INDEX_MAX))
    index = unpack(data)
    if index.blob_size != layer.size or not index.commitments:
        raise WorkerError("a worker sent the index of another layer", where=where)
    return index


def _pass_on(finder: WorkerLink, indexer: WorkerLink, digests: TocDigests, layer: Descriptor, limits: Limits) -> None:
    """Give the text from one to the other.

    :raises DigestMismatch: it is not what the manifest commits to; nothing of what the indexer says may be believed.
    """
    hasher: Hasher | None = digests.text.hasher() if digests.text is not None else None
    for piece in finder.data(limits.toc_text_bytes):
        if hasher is not None:
            hasher.update(piece)
        indexer.feed(piece)
    if digests.text is not None and hasher is not None and hasher.hexdigest() != digests.text.hex:
        raise other_toc(layer)
    indexer.end_of_input()


class _Answers:
    """Answers the questions of a finder."""

    def __init__(self, source: ImageSource, layer: Descriptor, digests: TocDigests, tag: str, limits: Limits) -> None:
        self._source = source
        self._layer = layer
        self._digests = digests
        self._tag = tag
        self._limits = limits

    def serve(self, finder: WorkerLink) -> dict[str, object]:
        """Until it has found the table; what it says of it.

        :raises WorkerError: it asks for what nobody has to ask for.
        """
        for _ in range(_ASKS):
            kind, body = finder.frame()
            if kind == FOUND:
                try:
                    return pack_found(unpack_found(read_json(body)))
                except ValueError as error:
                    raise self._lie() from error
            if kind != ASK:
                raise self._lie()
            data = self._answer(read_json(body))
            finder.feed(LENGTH.pack(len(data)))
            finder.feed(data)
        raise self._lie()

    def _answer(self, ask: dict[str, object]) -> bytes:
        if "toc_of" in ask:
            return self._external()
        offset, length, toc_at = ask.get("offset"), ask.get("length"), ask.get("toc_at")
        if type(offset) is not int or type(length) is not int:
            raise self._lie()
        if offset < 0 or not 0 < length <= self._limits.toc_bytes + _PIECE or offset + length > self._layer.size:
            raise self._lie()
        if self._digests.compressed is None:
            return self._source.read_at(self._layer, offset, length)
        if type(toc_at) is not int and length > _UNCOMMITTED:
            raise self._lie()
        data = self._source.read_at(self._layer, offset, length)
        if type(toc_at) is int:
            check_toc(self._digests.compressed, (data[toc_at:],), self._layer)
        return data

    def _external(self) -> bytes:
        if not self._tag:
            what = "the table of contents is in another image, which is found by a tag, and the image was named by a digest"
            raise NotFound(what, where=str(self._layer.digest))
        raw = self._source.manifest(toc_tag(self._tag))
        manifest = parse_manifest(raw.data, raw.media_type)
        blob = toc_layer(manifest, self._layer.digest) if isinstance(manifest, Manifest) else None
        if blob is None:
            raise NotFound("the image with the tables of contents has none for it", where=str(self._layer.digest))
        if blob.size > self._limits.toc_bytes:
            raise LimitExceeded(f"a table of contents of {blob.size} bytes", where=str(self._layer.digest))
        data = bytearray()
        for piece in self._source.blob(blob):
            data += piece
            if len(data) > blob.size:
                raise BadImage("the blob is longer than its manifest says", where=str(blob.digest))
        return bytes(data)

    def _lie(self) -> WorkerError:
        return WorkerError("a worker broke the protocol", where=str(self._layer.digest))
