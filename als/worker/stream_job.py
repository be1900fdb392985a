"""The stream worker: a layer's blob comes in as bytes, what it decompresses to goes out as DATA frames, not parsed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from als.errors import AlsError, BadImage
from als.formats.codecs import decompressor, identify
from als.model.limits import Limits
from als.worker.frames import DATA, END, FrameWriter

_READ_SIZE = 1 << 18


def run(params: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Decompress the blob that arrives on ``fds[0]`` and write frames to ``fds[1]``.

    :param params: ``limits``: the fields of :class:`als.model.limits.Limits`.
    """
    source, sink = fds
    out = FrameWriter(sink)
    try:
        piece = os.read(source, _READ_SIZE)
        # As the parse worker: what kind it is the first bytes say, not the media type.
        codec = decompressor(identify(piece), Limits(**params["limits"]))
        while piece:
            for data in codec.feed(piece):
                out.write(DATA, data)
            # A frame's body may be the codec's own buffer.
            out.flush()
            piece = os.read(source, _READ_SIZE)
        codec.finish()
        out.write_json(END, {})
    except AlsError as error:
        out.write_error(error)
    except MemoryError:
        out.write_error(BadImage("it needs more memory than a worker may have"))
    out.flush()
