"""The kernel's mount table, ``/proc/thread-self/mountinfo``.

The table is asked, never ``stat``: a stat of a FUSE mount whose daemon died fails, and one whose daemon hangs never
returns, while the table is always at hand. Format: proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

# Of the thread, since unshare(2) moves a thread: /proc/self speaks of the main thread's namespace.
_MOUNTINFO = Path("/proc/thread-self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of the table."""

    mount_id: int
    parent_id: int
    device: tuple[int, int]
    """Major and minor number of the mounted file system; equal for two mounts of one superblock."""
    root: Path
    """The directory of that file system which is mounted; not ``/`` for bind mounts."""
    target: Path
    """Where, as seen from this process's root."""
    options: tuple[str, ...]
    """Of this mount: ``ro``, ``nodev`` ..."""
    propagation: tuple[str, ...]
    """``shared:N``, ``master:N`` ...; empty for a private mount."""
    fstype: str
    source: str
    """What was given to mount(2): a device, an image file, or an arbitrary word."""
    super_options: tuple[str, ...]
    """Of the file system: ``lowerdir=...`` and the like. A comma within a value is split as well."""


MountReader = Callable[[], Sequence[MountEntry]]
"""Tells the mounts that there are when it is called."""


@lru_cache(maxsize=1)
def parse_mountinfo(data: bytes) -> tuple[MountEntry, ...]:
    """Entries in the kernel's order, in which what covers another mount stands after it. The last table is remembered.

    :raises ValueError: this is not a mountinfo table.
    """
    return tuple(_parse_line(line) for line in data.split(b"\n") if line)


def _parse_line(line: bytes) -> MountEntry:
    fields = line.split(b" ")
    try:
        # Between the mount options and the separator stand any number of optional fields.
        separator = fields.index(b"-", 6)
        fstype, source, super_options = fields[separator + 1 : separator + 4]
        major, minor = fields[2].split(b":")
        return MountEntry(
            mount_id=int(fields[0]),
            parent_id=int(fields[1]),
            device=(int(major), int(minor)),
            root=Path(_text(fields[3])),
            target=Path(_text(fields[4])),
            options=tuple(_text(fields[5]).split(",")),
            propagation=tuple(_text(field) for field in fields[6:separator]),
            fstype=_text(fstype),
            source=_text(source),
            super_options=tuple(_text(super_options).split(",")),
        )
    except (ValueError, IndexError) as error:
        raise ValueError(f"not a line of mountinfo: {line!r}") from error


def _text(field: bytes) -> str:
    """The kernel writes space, tab, newline, backslash and ``#`` as a backslash and three octal digits."""
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field))


def read_mounts() -> tuple[MountEntry, ...]:
    """The mounts that the calling thread sees now."""
    return parse_mountinfo(_MOUNTINFO.read_bytes())


class MountWatch:
    """The table for who asks again and again within a block: printed anew only after it has changed.

    The kernel takes as long to print a few hundred mounts as we to take them apart, and a start with 90 images asked for them
    before it published each. poll(2) tells of changes (proc_pid_mounts(5)); what is mounted after the question and before the
    answer is told of by the next one. For the thread that entered the block.
    """

    def __init__(self) -> None:
        self._known: tuple[MountEntry, ...] | None = None

    def __enter__(self) -> Self:
        self._file = _MOUNTINFO.open("rb", buffering=0)
        self._changes = select.poll()
        self._changes.register(self._file, select.POLLPRI)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def read(self) -> tuple[MountEntry, ...]:
        """The mounts that there are now."""
        if self._changes.poll(0) or self._known is None:
            self._file.seek(0)
            self._known = parse_mountinfo(self._file.readall())
        return self._known


def location(path: Path) -> Path:
    """`path` as the table writes it: absolute, its parent resolved.

    The last component is left alone: it may be a mount that answers nothing. It must not be a symlink.
    """
    absolute = path.absolute()
    return absolute.parent.resolve() / absolute.name if absolute.name not in ("", "..") else absolute.resolve()


def find_mount(path: Path, mounts: Sequence[MountEntry] | None = None) -> MountEntry | None:
    """The mount that is visible at `path` itself (of several, the one on top), or None.

    :param mounts: a table read before; by default it is read now.
    """
    where = location(path)
    table = read_mounts() if mounts is None else mounts
    return next((entry for entry in reversed(table) if entry.target == where), None)


def is_mount(path: Path) -> bool:
    """Whether something is mounted at `path` itself."""
    return find_mount(path) is not None


def mounts_below(path: Path, mounts: Sequence[MountEntry] | None = None) -> tuple[MountEntry, ...]:
    """The mounts at `path` and anywhere below it, in an order in which they can be unmounted."""
    where = location(path)
    table = read_mounts() if mounts is None else mounts
    inside = [entry for entry in reversed(table) if entry.target.is_relative_to(where)]
    # Deepest first; of those at one place the last mounted first (the sort is stable).
    return tuple(sorted(inside, key=lambda entry: -len(entry.target.parts)))
