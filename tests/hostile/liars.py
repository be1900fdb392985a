"""Workers that somebody has taken over: ``python -m tests.hostile.liars FD FOLDER`` is a zygote like :mod:`als.worker`'s.

What its workers do, the variable ALS_LIE names; an argument may follow behind a colon. They enter the real sandbox first, and
speak the real protocol as far as the lie allows.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from als.formats.base import Begin, Payload
from als.formats.tar.parser import TarParser
from als.model.entry import Entry, EntryType
from als.worker.__main__ import main
from als.worker.frames import DATA, END, ERROR, HEADER, RUN
from als.worker.parse_job import ParseJob
from als.worker.runs import pack_entry

Frame = tuple[int, bytes]
_HOUR = 3600.0
TAR_BYTES = 10240
"""What tarfile writes for a few small entries: one record."""


def honest(source: int) -> list[Frame]:
    """The frames of a worker for a layer that is not compressed: honest, and with a run for each entry and each piece."""
    parser = TarParser()
    frames: list[Frame] = []
    while data := os.read(source, 1 << 20):
        for event in parser.feed(data):
            frames.append(run(b"", event.entry) if isinstance(event, Begin) else run(bytes(event.data)))
    return [*frames, (END, b"{}")]


def run(data: bytes, *entries: Entry) -> Frame:
    """A run whose entries all begin with it."""
    index = b"".join(pack_entry(0, entry) for entry in entries)
    return RUN, struct.pack("<I", len(index)) + index + data


def entry(path: bytes, kind: EntryType = EntryType.FILE, **fields: Any) -> Frame:
    return run(b"", Entry(path, kind, **fields))


def endless(frame: Frame) -> Iterator[Frame]:
    while True:
        yield frame


def silence() -> Iterator[Frame]:
    time.sleep(_HOUR)
    yield END, b"{}"


def drained(source: int, frames: Iterator[Frame] | list[Frame]) -> Iterator[Frame]:
    """Read all of the blob, then say something else."""
    while os.read(source, 1 << 16):
        pass
    yield from frames


def death_after(source: int, count: int) -> Iterator[Frame]:
    yield from honest(source)[:count]
    raise _Die


def changed(source: int) -> Iterator[Frame]:
    """One bit of a file's content is another."""
    parser = TarParser()
    while data := os.read(source, 1 << 20):
        for event in parser.feed(data):
            if isinstance(event, Payload):
                yield run(bytes([event.data[0] ^ 1]) + bytes(event.data[1:]))
            else:
                yield run(b"", event.entry) if isinstance(event, Begin) else run(event.data)
    yield END, b"{}"


def swapped_names(source: int) -> Iterator[Frame]:
    """The right bytes, and the entries before them in another order."""
    frames = honest(source)
    begins = [frame for frame in frames if frame[0] == RUN and not frame[1].startswith(bytes(4))]
    yield from begins
    yield from (frame for frame in frames if frame not in begins)


def unread(source: int) -> Iterator[Frame]:
    """What the blob begins with, and not a look at the rest."""
    data = b""
    while len(data) < TAR_BYTES:
        data += os.read(source, TAR_BYTES - len(data))
    os.close(source)
    yield run(data)
    yield END, b"{}"


def endless_map() -> Frame:
    """An entry that declares more extents than memory could hold."""
    record = pack_entry(0, Entry(b"", EntryType.FILE, size=9))
    return RUN, struct.pack("<I", len(record)) + record[:-4] + struct.pack("<I", 0xFFFFFFF0)


class _Die(Exception):
    """End without another word."""


PARSE_LIES: Mapping[str, Callable[[int, str], Iterator[Frame] | list[Frame]]] = {
    "changed": lambda source, _: changed(source),
    "swapped": lambda source, _: swapped_names(source),
    "unread": lambda source, _: unread(source),
    "death": lambda source, count: death_after(source, int(count)),
    "nothing": lambda source, _: drained(source, [(END, b"{}")]),
    "path": lambda source, path: drained(source, [entry(bytes.fromhex(path)), (END, b"{}")]),
    "link": lambda source, path: drained(source, [entry(b"x", EntryType.HARDLINK, linkname=bytes.fromhex(path)), (END, b"{}")]),
    "endless-segments": lambda source, _: endless(run(b"x" * 4096)),
    "endless-nothing": lambda source, _: endless(run(b"")),
    "endless-empty-frames": lambda source, _: endless((RUN, b"")),
    "endless-places": lambda source, _: endless(
        (RUN, run(b"x", Entry(b"f", EntryType.DIR))[1].replace(bytes(4), b"\xff" * 4, 1))
    ),
    "endless-unknown": lambda source, _: endless((ord("?"), b"x")),
    "endless-headers": lambda source, _: endless((HEADER, b"{}")),
    "endless-entries": lambda source, _: (entry(b"d%d" % number, EntryType.DIR) for number in range(1 << 60)),
    "endless-names": lambda source, _: endless(entry(b"d", EntryType.DIR)),
    "endless-xattrs": lambda source, _: (
        entry(b"d%d" % number, xattrs=((b"user.x", b"%08d" % number * 4000),)) for number in range(1 << 60)
    ),
    "holes": lambda source, _: drained(source, [entry(b"f", size=1 << 37, stored=0, extents=()), (END, b"{}")]),
    "endless-map": lambda source, _: drained(source, [endless_map()]),
    "silence": lambda source, _: silence(),
    "silence-at-the-end": lambda source, _: drained(source, silence()),
    "half-a-frame": lambda source, _: drained(source, [(-1, struct.pack("<BI", RUN, 100) + b"x" * 50)]),
    "long-frame": lambda source, _: drained(source, [(-1, struct.pack("<BI", RUN, 0xFFFFFFFF))]),
    "error": lambda source, text: drained(source, [(ERROR, bytes.fromhex(text))]),
    "deep-error": lambda source, _: drained(source, [(ERROR, b"[" * (1 << 20))]),
}


class Liar:
    """What the workers of one zygote do.

    :param lie: the variable ALS_LIE.
    :param layout: the folder of an OCI layout, read while files can still be read.
    """

    def __init__(self, lie: str, layout: Path) -> None:
        self._name, _, self._argument = lie.partition(":")
        self._parse = ParseJob()
        self._blobs = {f"sha256:{path.name}": path.read_bytes() for path in layout.glob("blobs/sha256/*")}
        self._manifest = self._config = ""
        for listed in json.loads((layout / "index.json").read_bytes())["manifests"][:1]:
            self._manifest = str(listed["digest"])
            self._config = str(json.loads(self._blobs[self._manifest])["config"]["digest"])

    def parse(self, params: Mapping[str, Any], fds: Sequence[int]) -> None:
        """A parse worker."""
        if self._name not in PARSE_LIES:
            self._parse(params, fds)
            return
        source, sink = fds
        say(PARSE_LIES[self._name](source, self._argument), sink)

    def stream(self, params: Mapping[str, Any], fds: Sequence[int]) -> None:
        """A stream worker."""
        source, sink = fds
        say(STREAM_LIES[self._name](source), sink)

    def fetch(self, params: Mapping[str, Any], fds: Sequence[int]) -> None:
        """A fetch worker; what it does not lie about comes from the layout."""
        with socket.socket(fileno=fds[0]) as requests:
            while True:
                packet, received, _, _ = socket.recv_fds(requests, 1 << 16, 1)
                if not packet:
                    return
                request = json.loads(packet)
                frames = self.truth(request)
                if self._name == self._kind(request):
                    frames = FETCH_LIES[self._argument](frames)
                say(frames, received[0])
                os.close(received[0])

    def _kind(self, request: Mapping[str, Any]) -> str:
        if request["op"] == "manifest":
            return "manifest"
        return "config" if request["digest"] == self._config else "blob"

    def truth(self, request: Mapping[str, Any]) -> list[Frame]:
        """What an honest worker would answer."""
        if request["op"] == "manifest":
            kind = json.dumps({"media_type": "application/vnd.oci.image.manifest.v1+json"}).encode()
            return [(HEADER, kind), (DATA, self._blobs[self._manifest]), (END, b"{}")]
        return [(HEADER, b"{}"), (DATA, self._blobs[request["digest"]]), (END, b"{}")]


Frames = Iterator[Frame] | list[Frame]


def say(frames: Frames, sink: int) -> None:
    """Write frames; of the kind -1 are bytes that are none."""
    try:
        # Whoever has heard enough hangs up; that a liar dies of it would be a line in the log.
        for kind, body in frames:
            data = body if kind < 0 else struct.pack("<BI", kind, len(body)) + body
            view = memoryview(data)
            while view:
                view = view[os.write(sink, view) :]
    except (BrokenPipeError, ConnectionResetError):
        return
    except _Die:
        signal.raise_signal(signal.SIGKILL)  # kill(2) is refused to workers; this is tgkill(2).


def followed(frames: Frames, more: Frames) -> Iterator[Frame]:
    """All but the END, and then more."""
    yield from (frame for frame in frames if frame[0] != END)
    yield from more


def dead() -> Iterator[Frame]:
    yield HEADER, b"{}"
    raise _Die


FETCH_LIES: Mapping[str, Callable[[Frames], Frames]] = {
    "twisted": lambda truth: [(kind, body[::-1] if kind == DATA else body) for kind, body in truth],
    "longer": lambda truth: followed(truth, endless((DATA, b" " * 65536))),
    "shorter": lambda truth: [(kind, body[:-1] if kind == DATA else body) for kind, body in truth],
    "endless-headers": lambda truth: endless((HEADER, b"{}")),
    "endless-nothing": lambda truth: endless((DATA, b"")),
    "endless-segments": lambda truth: endless(run(b"x")),
    "silence": lambda truth: silence(),
    "silence-at-the-end": lambda truth: followed(truth, silence()),
    "death": lambda truth: dead(),
    "nothing": lambda truth: [(END, b"{}")],
    "deep-header": lambda truth: [(HEADER, b'{"media_type":' + b"[" * 100_000)],
    "error": lambda truth: [(ERROR, b'{"type": "KeyboardInterrupt", "what": "\\u001b[2J"}')],
}

STREAM_LIES: Mapping[str, Callable[[int], Frames]] = {
    "stream-endless": lambda source: endless((DATA, b"x" * 4096)),
    "stream-endless-nothing": lambda source: endless((DATA, b"")),
    "stream-endless-headers": lambda source: endless((HEADER, b"{}")),
    "stream-changed": lambda source: drained(source, [(DATA, b"x" * TAR_BYTES), (END, b"{}")]),
    "stream-nothing": lambda source: drained(source, [(END, b"{}")]),
    "stream-unread": lambda source: cut_off(source),
    "stream-error": lambda source: drained(source, [(ERROR, b'{"type": "KeyboardInterrupt", "what": "\\u001b[2J"}')]),
    "stream-silence": lambda source: silence(),
    "stream-silence-at-the-end": lambda source: drained(source, silence()),
    "stream-death": lambda source: dead(),
}
"""Of the workers that only decompress."""


def cut_off(source: int) -> Iterator[Frame]:
    """The right stream, and not a look at what follows it in the blob."""
    run_without_entries = next(unread(source))[1]
    yield DATA, run_without_entries[4:]
    yield END, b"{}"


if __name__ == "__main__":
    liar = Liar(os.environ["ALS_LIE"], Path(os.environ["ALS_LIE_LAYOUT"]))
    main(int(sys.argv[1]), sys.argv[2], {"parse": liar.parse, "fetch": liar.fetch, "stream": liar.stream})
