"""What is mounted on this machine in any mount namespace, and what overlays it is made of.

A container's root is mounted in a namespace that we do not see into: podman's own, or the container's. Their tables are to be
had from /proc/PID/mountinfo of any process that lives there. The paths in them are those of the process that mounted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from als.mount.table import MountEntry, parse_mountinfo

_PROC = Path("/proc")
_LOWER_OPTIONS = ("lowerdir", "lowerdir+", "datadir+")
_ESCAPED = re.compile(r"\\(.)")
_COLON = re.compile(r"(?<!\\):+")


def all_mounts() -> Iterator[MountEntry]:
    """The mounts of every namespace that a process lives in; one that several of them have appears as often."""
    seen: set[str] = set()
    for name in os.listdir(_PROC):
        if not name.isdigit():
            continue
        try:
            namespace = str((_PROC / name / "ns" / "mnt").readlink())
            if namespace in seen:
                continue
            table = (_PROC / name / "mountinfo").read_bytes()
        except OSError:
            # It has ended, or is ending: its mounts are of no use to anybody then.
            continue
        if table:
            seen.add(namespace)
            yield from parse_mountinfo(table)


def overlay_lowers(entry: MountEntry) -> list[str]:
    """The lower directories of an overlay as they were given to the kernel: perhaps relative, perhaps with ``..``."""
    found: list[str] = []
    for option in _options(entry):
        name, _, value = option.partition("=")
        if name in _LOWER_OPTIONS:
            found += [_ESCAPED.sub(r"\1", part) for part in _COLON.split(value) if part]
    return found


def overlay_upper(entry: MountEntry) -> str:
    """The upper directory of an overlay; "" if it has none."""
    uppers = (option.removeprefix("upperdir=") for option in _options(entry) if option.startswith("upperdir="))
    return next(uppers, "")


def _options(entry: MountEntry) -> list[str]:
    """The options of the file system, with those put together again that have an escaped comma in their value."""
    joined: list[str] = []
    for part in entry.super_options:
        if joined and joined[-1].endswith("\\"):
            joined[-1] = f"{joined[-1][:-1]},{part}"
        else:
            joined.append(part)
    return joined
