"""What a process after this one has to know of a FUSE connection, in a file that each change is appended to.

It lies in RUN, which is as short-lived as the connection, and has a first line of its own: with whom the connection was made
and what was agreed on. A line is written before the kernel is told, by one write(2) each, so a process that is killed leaves
at most the last one cut off. Of lookups the file counts rather too many than too few: what the kernel knows is in it, and a
node that it does not know any more costs a few hundred bytes for as long as the mount stands.

Rejected: to ask the store what the numbers stand for (the kernel knows files of layers that are gone), and a memory file
beside the connection's descriptor (it cannot be replaced by a shorter one in one step).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from als.errors import StoreError
from als.fuse import noderecords
from als.fuse.nodes import Node, NodeTable
from als.fuse.wire import Negotiated

log = logging.getLogger(__name__)

VERSION = 1
"""Of the file's form. Of another one nothing is read: the file system is mounted anew then."""
_PREFIX = "als-fuse"
_LEAST_COMPACTED = 4 << 20
"""Bytes that are appended before the file is written anew."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line."""

    mountpoint: str
    device: tuple[int, int]
    """Of the mounted file system."""
    agreed: Negotiated


def new_name() -> str:
    """A name for a connection, under which its descriptor is held and its file lies."""
    return f"{_PREFIX}-{VERSION}-{secrets.token_hex(6)}"


def is_ours(name: str) -> bool:
    """Whether a held descriptor is a connection of some version of als."""
    return name.startswith(f"{_PREFIX}-")


class Journal:
    """The file of one connection, and the table that it tells of."""

    def __init__(self, path: Path, header: Header, table: NodeTable) -> None:
        """
        :param path: written anew.
        :param table: its changes are written from now on.
        :raises OSError: it cannot be written.
        """
        self._path = path
        self._header = header
        self.table = table
        self._fd = -1
        self._appended = self._size = 0
        self._failing = False
        self._compact()
        table.observe(self)

    @property
    def header(self) -> Header:
        return self._header

    def told(self, node: Node, *, again: bool) -> None:
        """The kernel is about to be told of a node."""
        self._append(noderecords.told_again(node.inode) if again else noderecords.told(node))

    def forgotten(self, inode: int, lookups: int) -> None:
        """The kernel dropped that many lookups."""
        self._append(noderecords.forgotten(inode, lookups))

    def close(self, *, remove: bool) -> None:
        """
        :param remove: the connection has ended.
        """
        self.table.observe(None)
        os.close(self._fd)
        if remove:
            self._path.unlink(missing_ok=True)

    def _append(self, line: bytes) -> None:
        try:
            if self._appended > max(_LEAST_COMPACTED, 2 * self._size):
                # The table has the change already.
                self._compact()
                return
            if os.write(self._fd, line) < len(line):
                # What follows must not be taken for the rest of this line.
                self._compact()
            self._appended += len(line)
            self._failing = False
        except OSError as error:
            if not self._failing:
                log.error("if als is restarted, containers may lose files: %s: %s", self._path, error.strerror)
            self._failing = True

    def _compact(self) -> None:
        lines = [_first_line(self._header), *(noderecords.known(node, count) for node, count in self.table.known())]
        data = b"".join(lines)
        new = self._path.with_suffix(".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_APPEND, 0o600)
        try:
            with os.fdopen(os.dup(fd), "wb") as file:
                file.write(data)
            new.rename(self._path)
        except OSError:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size, self._appended = fd, len(data), 0


def read(path: Path) -> tuple[Header, NodeTable]:
    """What a process before this one has left.

    :raises StoreError: there is no such file, or it is of another form.
    """
    try:
        first, _, rest = path.read_bytes().partition(b"\n")
        return _header(json.loads(first)), noderecords.replay(rest)
    except OSError as error:
        raise StoreError(f"the connection's file cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise StoreError(f"not what this als writes: {error}", where=str(path)) from error


def _first_line(header: Header) -> bytes:
    value = {
        "version": VERSION,
        "mountpoint": header.mountpoint,
        "device": list(header.device),
        "negotiated": header.agreed.to_json(),
    }
    return json.dumps(value).encode() + b"\n"


def _header(value: object) -> Header:
    match value:
        case {
            "version": int(version),
            "mountpoint": str(mountpoint),
            "device": [int(major), int(minor)],
            "negotiated": dict(negotiated),
        } if version == VERSION and isinstance(negotiated, Mapping):
            return Header(mountpoint, (major, minor), Negotiated.from_json(negotiated))
    raise ValueError(f"{str(value)[:200]!r}")
