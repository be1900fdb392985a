"""mount.composefs of composefs' own tools, from a Debian suite that has them, unchanged; nothing is installed."""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
from pathlib import Path

from tests.harness.debs import Unavailable, only_one, os_release, own_libraries, unpack
from tests.harness.system import run

SUITE = "forky"
"""The first that has the package."""
_PROGRAM = "usr/sbin/mount.composefs"
_FORMAT = "1"
"""Part of the cached folder's name: to be changed with what is made of the packages."""


def mount_composefs(cache: Path) -> Path:
    """The program, from the cache or the mirror.

    :raises Unavailable: this is no machine for it. What should work and does not is another error.
    """
    if platform.machine() != "x86_64":
        raise Unavailable(f"the composefs of Debian {SUITE} is fetched for x86-64 only")
    if os_release().get("ID") != "debian":
        raise Unavailable(f"the composefs of Debian {SUITE} is fetched on Debian only")
    # The program has the folder's absolute path in it.
    key = hashlib.sha256(f"{_FORMAT}:{cache.resolve()}".encode()).hexdigest()[:12]
    folder = cache.resolve() / f"composefs-{SUITE}-{key}"
    cache.mkdir(exist_ok=True)
    with only_one(cache / "composefs.lock"):
        if not folder.exists():
            _make(folder)
    return folder / "root" / _PROGRAM


def _make(folder: Path) -> None:
    for left in folder.parent.glob(f"composefs-{SUITE}-*"):  # By a run that was killed, or an older form of this.
        shutil.rmtree(left)
    staging = Path(tempfile.mkdtemp(prefix=f"composefs-{SUITE}-", dir=folder.parent))
    try:
        staging.chmod(0o755)
        root = staging / "root"
        unpack(SUITE, ("composefs",), root)
        own_libraries(root / _PROGRAM, root, folder / "root")
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    # It has no option that does nothing; that it says how it is used shows that it runs.
    done = run(folder / "root" / _PROGRAM, status=None)
    if b"usage" not in (done.stdout + done.stderr).lower():
        shutil.rmtree(folder)
        raise AssertionError(f"mount.composefs does not run: {done}")
