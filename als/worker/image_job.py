"""Writes the EROFS image of a lazily read layer, in a process of its own that is no worker but a part of the privileged side.

What arrives on the socket ``fds[0]`` until its end is the packed index (als.formats.indexfile); the image is written to the
file ``fds[1]``, and END has its ``sha256``.

The kernel will read that image, so it is no worker's to write: whoever parsed a stranger's text may have been taken over by it.
This process has seen nothing but an index that the daemon has checked and packed itself, and has all the daemon's rights. It is
another one because Python lets one thread of a process run at a time, and the image of many files takes long: meanwhile nothing
was fetched of the layer, and nobody who read another one's files was answered. Nor does the tree of a million files stay in a
process that runs for months.
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
from als.formats.lazy import tree_of
from als.model.limits import Limits
from als.store.objects import write_all
from als.store.refused import store_errors
from als.worker.frames import END, FrameWriter

_READ_SIZE = 1 << 20
_NICE = -5


class _Hashed:
    """A file to write to that is hashed on the way."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes, /) -> None:
        self.sha256.update(data)
        write_all(self._fd, data)


def run(params: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Write one image; see the module.

    :param params: ``limits``: of the layer; ``where``: the file, for errors.
    """
    with contextlib.suppress(PermissionError):
        # Somebody waits for it, and nobody yet for what is fetched meanwhile.
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    sink = _Hashed(fds[1])
    with socket.socket(fileno=fds[0]) as link:
        out = FrameWriter(link.fileno())
        try:
            index = unpack(b"".join(iter(lambda: link.recv(_READ_SIZE), b"")))
            with store_errors(Path(params["where"])):
                write_image(tree_of(index, Limits(**params["limits"])), sink, LAYER)
            os.close(fds[1])
            out.write_json(END, {"sha256": sink.sha256.hexdigest()})
        except AlsError as error:
            out.write_error(error)
        except MemoryError:
            # Not the layer's fault: it is not to be refused for that.
            out.write_error(WorkerError("the image of a layer needs more memory than there is"))
        out.flush()
