"""Workers for tables of contents that somebody took over. What they do is in the layer's annotation ``how``."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from als.formats.indexfile import pack
from als.worker.__main__ import main
from als.worker.frames import DATA, END, FrameWriter
from als.worker.toc_job import ASK, FOUND, TocJobs
from tests.fetch.toclayers import layer_of, writer_of
from tests.formats.liars import format_for
from tests.formats.tocbuilder import document_of

GARBAGE = ord("Q")
FORGED = document_of(writer_of("estargz", b"b" * 2500).rows)
honest = TocJobs()
other = layer_of("estargz", b"c" * 4000)
OTHER_INDEX = b"".join(pack(other.index(format_for(other))))


def find(params: Mapping[str, Any], fds: Sequence[int]) -> None:
    how = params["layer"][3]["how"]
    if how.startswith("index"):
        honest.find(params, fds)
        return
    with socket.socket(fileno=fds[0]) as link:
        out = FrameWriter(link.fileno())
        found: dict[str, object] = {"payload_end": 100, "gap": None, "text_length": None, "tar_split": None}
        if how == "other text":
            out.write_json(FOUND, found)
            out.write(DATA, FORGED)
            out.write_json(END, {})
        elif how == "odd places":
            out.write_json(FOUND, {**found, "gap": [1, "2"]})
        elif how == "no places":
            out.write(FOUND, b"[]")
        elif how == "garbage":
            out.write(GARBAGE, b"what?")
        elif how == "beyond":
            out.write_json(ASK, {"offset": params["layer"][2], "length": 1, "toc_at": None})
        elif how == "before":
            out.write_json(ASK, {"offset": -1, "length": 1, "toc_at": 0})
        elif how == "text":
            out.write_json(ASK, {"offset": "0", "length": 1, "toc_at": 0})
        elif how == "uncommitted":
            out.write_json(ASK, {"offset": 0, "length": 5000, "toc_at": None})
        elif how == "for ever":
            for _ in range(100):
                out.write_json(ASK, {"offset": 0, "length": 1, "toc_at": None})
        elif how == "empty":
            out.write_json(FOUND, found)
            out.write(DATA, b"")
        elif how == "silence":
            time.sleep(60)
        elif how == "death":
            os._exit(1)
        out.flush()


def index(params: Mapping[str, Any], fds: Sequence[int]) -> None:
    with socket.socket(fileno=fds[0]) as link:
        while link.recv(1 << 20):
            pass
        out = FrameWriter(link.fileno())
        how = params["layer"][3]["how"]
        if how == "index of another":
            out.write(DATA, OTHER_INDEX)
        elif how == "index torn":
            out.write(DATA, OTHER_INDEX[:-1])
        elif how == "index silence":
            time.sleep(60)
        elif how == "index garbage":
            out.write(GARBAGE, json.dumps(params["found"]).encode())
        out.write_json(END, {})
        out.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], {"find toc": find, "index toc": index})
