"""Whether a layer is worth serving before it is here, or is there sooner if its blob is streamed whole. Pure.

What is compared is the time until a container has read what it starts with:

    whole = R + B * N * max(1 / W, 1 / U)
    lazy  = I * R + T * N / W + O + E * F + D * R + S * B * N / W

R, W: round trip and bytes per second of the way to the registry; B: bytes of the blob; N: layers of the image that come at the
same time and share the link and this machine; U: compressed bytes per second that this machine unpacks and stores; T: bytes of
the index; I: round trips until it is here; O, E, F: what a lazy layer costs beside its bytes, at all and for each of F files;
D: how many reads follow from each other until the first output; S: the share of the layer that a start reads.

The blob's size decides on a slow link, the processor on a fast one: unpacking costs it more than an index does. What makes lazy
layers lose is a blob of which less than some round trips' worth of bytes is left to save (a small layer, or one of a start that
reads everything), and very many tiny files. A wrong guess costs at most the difference, since a lazy layer's rest follows
in the background, and since a layer smaller than the bytes of a round trip comes whole with its first read.

The numbers are those of :class:`Costs`; where and how each was measured is said there. ``bench.lazyrule`` measures both ways
for layers of many sizes. For a program that needs nothing else (busybox) lazy is the quicker one from 1 MB on; most need more.
"""

from __future__ import annotations

from dataclasses import dataclass

from als.lazy.link import DEFAULT_TUNING, Link


@dataclass(frozen=True, slots=True)
class Costs:
    """What the rule is fed with. Times in seconds, sizes in bytes."""

    index_round_trips: int = 2
    """Requests for an index, one after the other: what does not come with the first, comes with the second
    (als.formats.estargz)."""
    reads: int = 4
    """Reads that follow from each other: the program with the loader and the C library, its libraries, what those need, and a
    file. Python of a Debian 12 has three."""
    fixed: float = 0.05
    """Two processes without privileges, a mount, and the first answers through FUSE: an estimate."""
    per_file: float = 20e-6
    """Reading an index and opening the layer, with others at work on the same two processors: 0.14 s for 9,400 names."""
    index_file: int = 50
    """Compressed bytes of an index for each file, where its size is not known: 371 kB for 7,339 (zstd:chunked, Debian)."""
    file: int = 10_000
    """Bytes of a blob for each of its files, where their number is not known: 73 MB for 7,339 in the same layer."""
    unpack: float = 26e6
    """Compressed bytes per second that one layer is fetched from the same machine, unpacked, verified and stored with: 69 MB of
    gzip in 2.7 s, the client included (docs/mirror.md)."""
    share: float = 0.064
    """Of an image's bytes, what containers read at their start: the mean of 57 images in Harter et al., Slacker (FAST '16)."""


DEFAULT_COSTS = Costs()


@dataclass(frozen=True, slots=True)
class Way:
    """What is known of the way to a registry."""

    round_trip: float = DEFAULT_TUNING.first_byte
    """Seconds from a request to the first byte of its answer."""
    rate: float = DEFAULT_TUNING.rate
    """Bytes per second."""

    @classmethod
    def of(cls, link: Link | None) -> Way:
        """What a link has measured; as long as it has not, the same defaults as the scheduler's."""
        return cls() if link is None else cls(link.first_byte, link.rate)


@dataclass(frozen=True, slots=True)
class Blob:
    """What is known of a layer before its index is read."""

    size: int
    """Bytes, compressed."""
    index_size: int | None = None
    """Bytes of the index, compressed, where an annotation tells."""
    files: int | None = None
    share: float | None = None
    """Of its bytes, what earlier runs read at their start (0 to 1), where that was recorded."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How long it would take either way until a container has read what it starts with, in seconds."""

    lazy: float
    whole: float

    @property
    def pays(self) -> bool:
        """Whether the layer is worth serving lazily."""
        return self.lazy < self.whole

    def __str__(self) -> str:
        better = "lazy" if self.pays else "whole"
        return f"{better}: {self.lazy * 1000:.0f} ms lazily, {self.whole * 1000:.0f} ms as a whole"


def judge(blob: Blob, way: Way, layers: int = 1, costs: Costs = DEFAULT_COSTS) -> Verdict:
    """Compare the two ways to get a layer; see the module.

    :param layers: of the same image that are still to be fetched, this one among them.
    """
    files = blob.files if blob.files is not None else max(1, blob.size // costs.file)
    # An index is never more than its blob, whatever a manifest says of it.
    index = min(blob.size, blob.index_size if blob.index_size is not None else files * costs.index_file)
    share = costs.share if blob.share is None else min(1.0, max(0.0, blob.share))
    count = max(1, layers)
    rate = max(1.0, way.rate) / count
    whole = way.round_trip + blob.size / min(rate, costs.unpack / count)
    lazy = (
        (costs.index_round_trips + costs.reads) * way.round_trip
        + costs.fixed
        + costs.per_file * files
        + (index + share * blob.size) / rate
    )
    return Verdict(lazy, whole)
