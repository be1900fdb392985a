"""What a lazily readable layer format is.

Reading an index needs parts of the blob, and the parser has no I/O: it is a generator that yields which bytes it needs and is
sent them. So the same code runs in a worker without network (which asks its parent for the bytes), over a file, and in a test::

    reader = format.read(descriptor, limits)
    request = next(reader)
    while True:
        request = reader.send(bytes_of(request))   # StopIteration.value is the index

:func:`run` is that loop. Whatever is sent is untrusted: the reader checks its length and, before it believes anything, the
digest that the manifest has for the index.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from als.errors import BadImage, DigestMismatch
from als.formats.index import LayerIndex
from als.formats.indexrows import Watch, unwatched
from als.model.builder import TreeBuilder
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.manifest import Descriptor
from als.model.tree import Content, Tree


@dataclass(frozen=True, slots=True)
class BlobRange:
    """A request for `length` bytes (at least 1) of the layer's blob from `offset` on; they lie within the blob."""

    offset: int
    length: int
    toc_at: int | None = field(default=None, compare=False)
    """The bytes from here on are the compressed table of contents and nothing else. Where the manifest commits to these very
    bytes, who answers can verify them before anybody reads them."""


@dataclass(frozen=True, slots=True)
class ExternalToc:
    """A request for a whole blob of another image, which has the table of contents of `layer`.

    The other image is named by :func:`als.formats.estargz.external.toc_tag`; which blob of it is meant
    :func:`als.formats.estargz.external.toc_layer` finds in its manifest. It has at most `max_bytes`, and what is sent is not
    believed before it has the digest that the layer's own manifest states, wherever it came from.
    """

    layer: Digest
    max_bytes: int


@dataclass(frozen=True, slots=True)
class FoundToc:
    """A table of contents as it was found, and what the blob says of its surroundings. Nothing of it is believed yet."""

    data: bytes
    """Compressed."""
    payload_end: int
    """Where in the blob the units with files end."""
    gap: tuple[int, int] | None = None
    """The range (offset, end) of the blob that it takes, where that is no part of the stream."""
    text_length: int | None = None
    """Bytes that it decompresses to, where that is said."""
    tar_split: tuple[int, int, int] | None = None
    """Offset, length and uncompressed length of the tar-split."""


@dataclass(frozen=True, slots=True)
class TocDigests:
    """What the manifest commits to: at least one of the two."""

    compressed: Digest | None = None
    """Of the table of contents as it is in the blob."""
    text: Digest | None = None
    """Of the JSON."""


Request = BlobRange | ExternalToc
TocFinder = Generator[Request, bytes, FoundToc]
IndexReader = Generator[Request, bytes, LayerIndex]


class Parse(Protocol):
    """See :attr:`IndexedFormat.parse`."""

    def __call__(
        self, text: Iterator[bytes], layer: Descriptor, found: FoundToc, limits: Limits, watch: Watch = unwatched, /
    ) -> LayerIndex:
        """
        :param watch: told of the columns of the index while they grow.
        """
        ...


@dataclass(frozen=True, slots=True)
class IndexedFormat:
    """A lazily readable format; :mod:`als.formats.discovery` finds it under the name ``INDEXED`` in a module of als.formats.

    Layers of such a format can be read whole too, by the :class:`als.formats.base.Format` that matches them; that is what to
    do where the index is refused.

    An index is read in three steps, which may be three processes': whoever decompresses bytes that nothing commits to may be
    overcome by them, and must not be the one who says what the text means. All of them raise BadImage or LimitExceeded where
    what they read is malformed or hostile, Unsupported where it cannot serve lazily.
    """

    name: str
    """As ``als inspect`` prints it."""
    matches: Callable[[str, Mapping[str, str]], bool]
    """Whether a layer of this media type, with these annotations in its manifest, has an index that the manifest commits to."""
    digests: Callable[[Descriptor], TocDigests]
    """What a layer's manifest commits to."""
    find: Callable[[Descriptor, Limits], TocFinder]
    """Finds the table of contents in the blob."""
    text: Callable[[FoundToc, Limits], Iterator[bytes]]
    """The JSON of a table of contents, in pieces."""
    parse: Parse
    """The index of a layer, from the JSON; of what was found, all but the data. The digests are for the caller to check."""
    rank: int = 0
    """Of several formats that match, the one of the highest rank is meant."""

    def read(self, layer: Descriptor, limits: Limits) -> IndexReader:
        """Reads the index of a layer, all in one process. The text as a whole is never in memory: it is decompressed twice.

        :raises DigestMismatch: it is not the one that the manifest commits to.
        """
        digests = self.digests(layer)
        found = yield from self.find(layer, limits)
        check_toc(digests.compressed, (found.data,), layer)
        if digests.text is not None:
            check_toc(digests.text, self.text(found, limits), layer)
        return self.parse(self.text(found, limits), layer, found, limits)


def check_toc(digest: Digest | None, pieces: Iterable[bytes], layer: Descriptor) -> None:
    """Verify a layer's table of contents, compressed or not; None: the manifest does not commit to that.

    :raises DigestMismatch: it is another one.
    """
    if digest is None:
        return
    hasher = digest.hasher()
    for piece in pieces:
        hasher.update(piece)
    if hasher.hexdigest() != digest.hex:
        raise other_toc(layer)


def other_toc(layer: Descriptor) -> DigestMismatch:
    """The error of a table of contents with another digest."""
    where = f"layer {layer.digest}"
    return DigestMismatch("the table of contents is not the one that the manifest commits to", where=where)


def run(reader: IndexReader, answer: Callable[[Request], bytes]) -> LayerIndex:
    """Read an index with a function that gives the bytes of each request.

    :raises BadImage: whatever the reader refuses.
    """
    try:
        request = next(reader)
        while True:
            request = reader.send(answer(request))
    except StopIteration as stop:
        index = stop.value
        assert isinstance(index, LayerIndex)
        return index


def fetched(request: BlobRange, data: bytes) -> bytes:
    """The bytes that were sent for a range, if they are as many as were asked for.

    :raises BadImage: they are not.
    """
    if len(data) != request.length:
        end = request.offset + request.length
        raise BadImage(
            f"{len(data)} bytes came where {request.length} were asked for", where=f"bytes {request.offset} to {end}"
        )
    return data


def tree_of(index: LayerIndex, limits: Limits = DEFAULT_LIMITS) -> Tree:
    """The tree of a layer: what is in the index and nothing else.

    A file's content is named by its sha256, or, where the index has none for the whole file, by those of its chunks.

    :raises BadImage: the entries together are no layer (a hardlink to nothing, a name below a file).
    :raises LimitExceeded: there is more of something than the limits allow.
    """
    builder = TreeBuilder(limits)
    shared: dict[bytes, Content] = {}
    add_entries(builder, index, shared)
    return builder.finish()


def add_entries(builder: TreeBuilder, index: LayerIndex, shared: dict[bytes, Content]) -> None:
    """Let a builder have all entries of an index.

    :param shared: the contents that it had before, by their names.
    """
    sha256s = index.sha256s()
    for number, entry in enumerate(index.entries()):
        if not entry.size:
            builder.add(entry)
            continue
        name = sha256s[number] or index.chunks_digest(number)
        content = shared.get(name)
        if content is None:
            content = shared[name] = Content(name, sha256s[number])
        builder.add(entry, content)
