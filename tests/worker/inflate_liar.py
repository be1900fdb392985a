"""An inflate worker that somebody took over: what it does is in the first unit of its first request."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from als.worker.__main__ import main
from als.worker.frames import DATA, END, FrameWriter
from als.worker.inflate_job import HEAD, UNIT


def lie(_params: Mapping[str, Any], fds: Sequence[int]) -> None:
    with socket.socket(fileno=fds[0]) as requests:
        how = requests.recv(1 << 16)
        while len(how) <= HEAD.size + UNIT.size:
            how += requests.recv(1 << 16)
        out = FrameWriter(requests.fileno())
        word = how[HEAD.size + UNIT.size :]
        if word == b"flood":
            while True:
                out.write(DATA, bytes(1 << 20))
        if word == b"silence":
            time.sleep(60)
        if word == b"garbage":
            out.write(ord("Q"), b"what?")
        if word == b"empty":
            while True:
                out.write(DATA, b"")
        if word == b"death":
            os._exit(1)
        out.write_json(END, {})
        out.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], {"inflate": lie})
    os._exit(0)
