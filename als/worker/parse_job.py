"""The parse worker: a layer's blob comes in as bytes, what it holds goes out as frames."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from als.errors import AlsError, BadImage
from als.formats.base import Begin, Event
from als.formats.codecs import decompressor, identify
from als.formats.discovery import find_formats
from als.model.limits import DEFAULT_LIMITS, Limits
from als.worker.frames import END, FrameWriter
from als.worker.runs import RunWriter

_READ_SIZE = 1 << 18


class ParseJob:
    """What a parse worker does. Made in the zygote, which still has files to find the formats in."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._formats = {each.name: each for each in find_formats()}
        self._limits = limits

    def __call__(self, params: Mapping[str, Any], fds: Sequence[int]) -> None:
        """Parse the blob that arrives on ``fds[0]`` and write frames to ``fds[1]``.

        :param params: ``format``: name of the layer's format (als.formats); ``limits``: other limits than the default.
        """
        source, sink = fds
        out = FrameWriter(sink)
        try:
            limits = Limits(**params["limits"]) if "limits" in params else self._limits
            runs = RunWriter(out)
            for event in self._events(source, str(params["format"]), limits):
                if isinstance(event, Begin):
                    runs.entry(event.entry)
                else:
                    runs.data(event.data)
            runs.flush()
            out.write_json(END, {})
        except AlsError as error:
            out.write_error(error)
        except (struct.error, OverflowError) as error:
            out.write_error(BadImage(f"a number is out of range: {error}"))
        except MemoryError:
            out.write_error(BadImage("it needs more memory than a worker may have"))
        out.flush()

    def _events(self, source: int, format_name: str, limits: Limits) -> Iterator[Event]:
        parser = self._formats[format_name].parser(limits)
        piece = os.read(source, _READ_SIZE)
        # Media types lie often enough, also about gzip and zstd; containers/image looks at the first bytes as well.
        codec = decompressor(identify(piece), limits)
        while piece:
            for data in codec.feed(piece):
                yield from parser.feed(data)
            piece = os.read(source, _READ_SIZE)
        codec.finish()
        yield from parser.finish()
