"""Files that are either the old one or the new one, also after a power cut."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from als.errors import StoreDamaged
from als.native.files import syncfs


def sync_directory(path: Path) -> None:
    """Make names that were added to or removed from a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(path: Path) -> None:
    """Make everything durable that was written to the file system on which the directory `path` lies.

    One wait for the disk, whatever was written: where more than a few files are to be durable, an fsync for each is slower.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600, like: Path | None = None) -> None:
    """Replace `path` by a file with this content; durable when it returns.

    :param like: where there is such a file, its owner, mode and extended attributes are taken over.
    """
    # The leading dot keeps readers that list a folder from taking a half-written file for a record.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            if like is not None and like.exists():
                _take_over(like, file.fileno())
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _take_over(source: Path, fd: int) -> None:
    status = source.stat()
    os.fchown(fd, status.st_uid, status.st_gid)
    os.fchmod(fd, status.st_mode & 0o7777)
    for name in os.listxattr(source):
        os.setxattr(fd, name, os.getxattr(source, name))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """:func:`write_atomically` of a JSON object."""
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that als wrote.

    :raises FileNotFoundError: there is none.
    :raises StoreDamaged: it is not what als writes.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise StoreDamaged(f"not valid JSON: {error}", where=str(path), hint="restore it or remove it") from error
    if not isinstance(value, dict):
        raise StoreDamaged("not a JSON object", where=str(path), hint="restore it or remove it")
    return value
