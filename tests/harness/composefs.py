"""mount.composefs of composefs' own tools, from a Debian suite that has them, unchanged; nothing is installed."""

from __future__ import annotations

from pathlib import Path

from tests.harness.debs import made_once, own_libraries, unpack
from tests.harness.system import CommandFailed, run

SUITE = "forky"
"""The first that has the package."""
_PROGRAM = "usr/sbin/mount.composefs"
_FORMAT = "1"
"""Part of the cached folder's name: to be changed with what is made of the packages."""


def mount_composefs(cache: Path) -> Path:
    """The program, from the cache or the mirror.

    :raises Unavailable: this is no machine for it. What should work and does not is another error.
    """
    return (
        made_once(f"the composefs of Debian {SUITE}", f"composefs-{SUITE}", _FORMAT, cache, _make, _check) / "root" / _PROGRAM
    )


def _make(staging: Path, folder: Path) -> None:
    root = staging / "root"
    unpack(SUITE, ("composefs",), root)
    own_libraries(root / _PROGRAM, root, folder / "root")


def _check(folder: Path) -> None:
    # It has no option that does nothing; that it says how it is used shows that it runs.
    done = run(folder / "root" / _PROGRAM, status=None)
    if b"usage" not in (done.stdout + done.stderr).lower():
        raise CommandFailed(f"mount.composefs does not run: {done}")
