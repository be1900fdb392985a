"""Writing configuration files: atomically, with the old one kept beside, and with everything that hangs on it.

A new file takes over mode, owner and extended attributes (so also the SELinux label) of the one it replaces. A symlink is the
caller's affair: paths here are those of the files themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from als.errors import ConfigError
from als.native.refusal import Refusal, refusal
from als.store.atomic import sync_directory, write_atomically

BACKUP = ".als-backup"
"""What a backup's name ends with."""


def read_file(path: Path) -> bytes | None:
    """A file's content; None: there is no such file.

    :raises ConfigError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        if refusal(error) is Refusal.MISSING:
            return None
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error


def digest(data: bytes | None) -> str | None:
    """What a content is remembered by."""
    return None if data is None else hashlib.sha256(data).hexdigest()


def backup_path(path: Path) -> Path:
    """A name beside the file that is not taken; for a drop-in beside the folder, since of some folders everything is read."""
    folder = path.parent.parent if path.parent.name.endswith(".d") else path.parent
    first = folder / (path.name + BACKUP)
    names = (first, *(first.with_name(f"{first.name}.{number}") for number in range(1, 1000)))
    for name in names:
        if not os.path.lexists(name):
            return name
    raise ConfigError("a thousand backups of it are here", where=str(path), hint="remove those that nobody needs")


def replace(contents: Mapping[Path, bytes | None], like: Mapping[Path, Path] | None = None) -> None:
    """Make every file have its content (None: be gone), or, if one cannot be written, none of them.

    :param like: for a new file the one whose mode, owner and attributes it gets, if that is not the one it replaces.
    :raises ConfigError: one cannot be written; the others are as they were.
    """
    done: dict[Path, bytes | None] = {}
    try:
        for path, data in contents.items():
            before = read_file(path)
            with _in_words(path):
                _put(path, data, (like or {}).get(path, path))
            done[path] = before
    except ConfigError:
        for path, before in reversed(done.items()):
            with _in_words(path):
                _put(path, before, path)
        raise


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "`als setup` without --apply shows the lines, to be put wherever this machine's configuration is made"
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path), hint=hint) from error


def _put(path: Path, data: bytes | None, like: Path) -> None:
    if data is None:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    # The temporary file is hidden and does not end in .conf: nobody takes it for configuration.
    write_atomically(path, data, mode=0o644, like=like)
