"""The few messages of the FUSE protocol that als itself reads and writes. Bytes in, bytes out.

What als negotiates with the kernel has to be known when another process takes the connection over, so als answers FUSE_INIT
and not libfuse; libfuse is told afterwards, in words that it takes for the kernel's (:mod:`als.fuse.connection`).

Layouts and numbers: the kernel's ``include/uapi/linux/fuse.h``; all integers are in the machine's byte order.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import IntFlag

from als.errors import KernelError

_IN_HEADER = struct.Struct("=IIQQIIIHH")
"""len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding"""
_OUT_HEADER = struct.Struct("=IiQ")
"""len, error, unique"""
_INIT_IN = struct.Struct("=IIIII44x")
"""major, minor, max_readahead, flags, flags2, unused"""
_INIT_IN_SHORT = struct.Struct("=IIII")
"""As kernels before 5.17 send it."""
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages, map_alignment,
flags2, unused"""

_FUSE_INIT = 26
_NOTIFY_RESEND = 7
_MAJOR = 7
_MINOR = 38
"""Of the protocol as pyfuse3's libfuse speaks it: what later ones bring is asked for by flags, and we ask for none of it."""
_OLDEST_MINOR = 31
"""Linux 5.4: no older kernel has what als needs elsewhere."""
_NEVER_USED = (1 << 62) - 2
"""A request's number for which no request ever waits: the kernel counts up from 2, in twos, and marks with the highest bit."""

MOST_REQUEST_BYTES = 4096
"""max_write. Nobody may write; it is the kernel's least."""
_MAX_PAGES = 256
"""Of one read: 1 MiB."""


class Init(IntFlag):
    """``FUSE_*`` flags of FUSE_INIT that als has an opinion on; ``flags2`` are the upper 32 bits."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    MAX_PAGES = 1 << 22
    INIT_EXT = 1 << 30
    HAS_RESEND = 1 << 39


_WANTED = (
    Init.ASYNC_READ
    | Init.ATOMIC_O_TRUNC
    | Init.BIG_WRITES
    | Init.AUTO_INVAL_DATA
    | Init.DO_READDIRPLUS
    | Init.ASYNC_DIO
    | Init.PARALLEL_DIROPS
    | Init.HANDLE_KILLPRIV
    | Init.MAX_PAGES
)
_NEEDED = Init.ASYNC_READ | Init.DO_READDIRPLUS
"""pyfuse3 reads directories in no other way."""
_KERNELS_ALONE = Init.MAX_PAGES | Init.INIT_EXT | Init.HAS_RESEND
"""libfuse would make each of its buffers so large as if as much were to be written."""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What the kernel and als agreed on when the file system was mounted. It holds until that is unmounted."""

    minor: int
    """Of the protocol."""
    flags: int
    """Those of `Init` that both want."""
    max_readahead: int
    """Bytes."""
    resends: bool
    """Whether the kernel sends unanswered requests again if asked to (Linux 6.9)."""

    def to_json(self) -> dict[str, int]:
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, object]) -> Negotiated:
        """
        :raises ValueError: it is none.
        """
        match dict(value):
            case {"minor": int(minor), "flags": int(flags), "max_readahead": int(most), "resends": bool(resends)}:
                return Negotiated(minor, flags, most, resends)
        raise ValueError(f"not what als negotiates: {value!r}")


@dataclass(frozen=True, slots=True)
class Offer:
    """The kernel's FUSE_INIT."""

    unique: int
    minor: int
    max_readahead: int
    flags: int


def parse_init(request: bytes) -> Offer:
    """The first request of a connection.

    :raises KernelError: it is none that als can answer.
    """
    try:
        _, opcode, unique, *_ = _IN_HEADER.unpack_from(request)
        major, minor, readahead, flags = _INIT_IN_SHORT.unpack_from(request, _IN_HEADER.size)
        if flags & Init.INIT_EXT:
            flags |= _INIT_IN.unpack_from(request, _IN_HEADER.size)[4] << 32
    except struct.error as error:
        raise KernelError(f"a first FUSE request of {len(request)} bytes", hint="is this Linux?") from error
    if opcode != _FUSE_INIT:
        raise KernelError(f"the first FUSE request is number {opcode}, not FUSE_INIT")
    if major != _MAJOR or minor < _OLDEST_MINOR or _NEEDED & ~flags:
        raise KernelError(f"FUSE {major}.{minor} (flags {flags:#x}) is not enough", hint="Linux 5.4 or later is needed")
    return Offer(unique, minor, readahead, flags)


def negotiate(offer: Offer) -> Negotiated:
    """What als takes of a kernel's offer."""
    agreed = offer.flags & _WANTED
    return Negotiated(min(offer.minor, _MINOR), agreed, offer.max_readahead, bool(offer.flags & Init.HAS_RESEND))


def init_reply(offer: Offer, agreed: Negotiated, background: int) -> bytes:
    """The answer to FUSE_INIT.

    :param background: how many reads that nobody waits for yet, such as reading ahead, the kernel sends at once, of all files.
    """
    flags = agreed.flags | (offer.flags & Init.INIT_EXT)
    body = _INIT_OUT.pack(
        _MAJOR,
        agreed.minor,
        agreed.max_readahead,
        flags & 0xFFFFFFFF,
        background,
        # From here on the kernel reads nothing ahead that nobody waits for: the proportion is its own.
        background * 3 // 4,
        MOST_REQUEST_BYTES,
        1,
        _MAX_PAGES,
        0,
        flags >> 32,
    )
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(body), 0, offer.unique) + body


def init_request(agreed: Negotiated) -> bytes:
    """A FUSE_INIT as a kernel would send it that can just what was agreed on. Nobody waits for the answer."""
    body = _INIT_IN.pack(_MAJOR, agreed.minor, agreed.max_readahead, agreed.flags & ~_KERNELS_ALONE & 0xFFFFFFFF, 0)
    return _IN_HEADER.pack(_IN_HEADER.size + len(body), _FUSE_INIT, _NEVER_USED, 0, 0, 0, 0, 0, 0) + body


def resend() -> bytes:
    """The notification that makes the kernel send again what was asked for and not answered."""
    return _OUT_HEADER.pack(_OUT_HEADER.size, _NOTIFY_RESEND, 0)
