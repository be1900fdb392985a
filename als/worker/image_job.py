"""Writes the EROFS image of a lazily read layer, in a process of its own that is no worker but a part of the privileged side.

It begins while the layer's table of contents is still being read: an indexer (:mod:`als.worker.toc_job`) writes ROWS frames and
END to the pipe ``fds[1]``, and the image of the tree that they make is written to the file ``fds[2]``. The daemon, when it has
checked the whole index, sends the digest of its columns (:func:`als.formats.indexrows.digest_of`) on the socket ``fds[0]``. If
that is the digest of what came by the pipe, the answer is END with the image's ``sha256``. If not (nobody wrote to the pipe, or
a worker that was taken over wrote something else), it is NEED; the daemon then sends the packed index (als.formats.indexfile)
and ends its input, and the image is made of that.

The kernel will read that image, so it is no worker's to write. This process makes of a worker's rows what the daemon makes of a
parser's runs (:mod:`als.fetch.assembler`), and has all the daemon's rights. It is another one because Python lets one thread of
a process run at a time, and the image of many files takes long: meanwhile nothing was fetched of the layer, and nobody who read
another one's files was answered. Nor does the tree of a million files stay in a process that runs for months.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from als.erofs.profile import LAYER
from als.erofs.writer import write_image
from als.errors import AlsError, WorkerError
from als.formats.indexfile import unpack
from als.formats.indexrows import RowReader
from als.formats.lazy import add_entries, tree_of
from als.model.builder import TreeBuilder
from als.model.limits import Limits
from als.model.tree import Content, Tree
from als.store.objects import write_all
from als.store.refused import store_errors
from als.worker.frames import END, FrameReader, FrameWriter, exactly, until_end

ROWS = ord("r")
"""A run of rows (als.formats.indexrows)."""
NEED = ord("N")
"""The image is not made yet: the index is needed."""
DIGEST_BYTES = 32
_NICE = 5


def run(params: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Write one image; see the module.

    :param params: ``limits``: of the layer; ``where``: the file, for errors.
    """
    # What is fetched meanwhile goes first: a client that was given the image takes a while until its container reads.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    link_fd, rows, image = fds
    limits, where = Limits(**params["limits"]), Path(params["where"])
    with socket.socket(fileno=link_fd) as link:
        out = FrameWriter(link.fileno())
        try:
            made = _of_rows(rows, image, limits, where)
            digest = exactly(link, DIGEST_BYTES)
            if made is None or made.digest != digest:
                out.write(NEED)
                out.flush()
                index = unpack(b"".join(until_end(link)))
                made = _Made(digest, _write(tree_of(index, limits), image, where))
            out.write_json(END, {"sha256": made.sha256})
        except AlsError as error:
            out.write_error(error)
        except MemoryError:
            # Not the layer's fault: it is not to be refused for that.
            out.write_error(WorkerError("the image of a layer needs more memory than there is"))
        out.flush()


class _Made:
    """An image, and the digest of the columns it was made of."""

    def __init__(self, digest: bytes, sha256: str) -> None:
        self.digest = digest
        self.sha256 = sha256


def _of_rows(rows: int, image: int, limits: Limits, where: Path) -> _Made | None:
    """The image of what comes by the pipe; None: nothing does, or nothing that could be believed.

    What is wrong with the rows is not said: the index, of which the daemon will see to it, has the same or is another.

    :raises StoreError: the disk refused.
    """
    reader, builder, shared = RowReader(), TreeBuilder(limits), dict[bytes, Content]()
    try:
        for kind, body in FrameReader(rows, lambda: None).frames():
            if kind == ROWS:
                add_entries(builder, reader.read(bytes(body)), shared)
            elif kind != END:
                return None
        tree = builder.finish()
    except (AlsError, MemoryError):
        return None
    finally:
        os.close(rows)
    return _Made(reader.digest, _write(tree, image, where))


def _write(tree: Tree, image: int, where: Path) -> str:
    """Write an image from the beginning of the file on; its sha256, hexadecimal."""
    with store_errors(where):
        os.ftruncate(image, 0)
        os.lseek(image, 0, os.SEEK_SET)
        sink = _Hashed(image)
        write_image(tree, sink, LAYER)
    return sink.sha256.hexdigest()


class _Hashed:
    """A file to write to that is hashed on the way."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes, /) -> None:
        self.sha256.update(data)
        write_all(self._fd, data)
