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

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

from als.errors import BadImage
from als.formats.index import LayerIndex
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


@dataclass(frozen=True, slots=True)
class ExternalToc:
    """A request for a whole blob of another image, which has the table of contents of `layer`.

    The other image is named by :func:`als.formats.estargz.external.toc_tag`; which blob of it is meant
    :func:`als.formats.estargz.external.toc_layer` finds in its manifest. It has at most `max_bytes`, and what is sent is not
    believed before it has the digest that the layer's own manifest states, wherever it came from.
    """

    layer: Digest
    max_bytes: int


Request = BlobRange | ExternalToc
IndexReader = Generator[Request, bytes, LayerIndex]


@dataclass(frozen=True, slots=True)
class IndexedFormat:
    """A lazily readable format; :mod:`als.formats.discovery` finds it under the name ``INDEXED`` in a module of als.formats.

    Layers of such a format can be read whole too, by the :class:`als.formats.base.Format` that matches them; that is what to
    do where the index is refused.
    """

    name: str
    """As ``als inspect`` prints it."""
    matches: Callable[[str, Mapping[str, str]], bool]
    """Whether a layer of this media type, with these annotations in its manifest, has an index that the manifest commits to."""
    read: Callable[[Descriptor, Limits], IndexReader]
    """Reads the index of a layer.

    Raises BadImage or LimitExceeded from next() and send() where the index is malformed or hostile, DigestMismatch where it is
    not the one that the manifest commits to, Unsupported where it cannot serve lazily."""
    rank: int = 0
    """Of several formats that match, the one of the highest rank is meant."""


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
    for number in range(len(index)):
        entry = index.entry(number)
        if not entry.size:
            builder.add(entry)
            continue
        sha256 = index.sha256(number)
        content = Content.of_sha256(sha256) if sha256 is not None else Content(index.chunks_digest(number), None)
        builder.add(entry, shared.setdefault(content.name, content))
    return builder.finish()
