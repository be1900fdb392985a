"""Newer podmans than the machine's own, from other suites of the distribution it runs: what a user will have, unchanged.

:func:`fetch` unpacks podman and all it depends on in a root of its own (:mod:`tests.harness.debs`) and makes the programs use
the libraries there.

The result lies in the cache folder and is used by later runs.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.harness.debs import Unavailable, made_once, own_libraries, unpack
from tests.harness.podman import Binaries
from tests.harness.system import run

__all__ = ["Client", "Unavailable", "binaries_of", "fetch"]

PROGRAMS = ("podman", "crun", "conmon", "skopeo")
HELPERS = ("netavark", "aardvark-dns", "catatonit")
PACKAGES = ("podman", "crun", "conmon", "skopeo", "netavark", "aardvark-dns", "catatonit")
_HELPER_FOLDERS = ("usr/lib/podman", "usr/libexec/podman", "usr/bin")
_FORMAT = "1"
"""Part of the cached folder's name: to be changed with what is made of the packages."""


@dataclass(frozen=True)
class Client:
    """One podman and the skopeo of the same suite."""

    suite: str
    folder: Path

    @property
    def binaries(self) -> Binaries:
        programs = {name: str(self.folder / "bin" / name) for name in ("podman", "crun", "conmon")}
        return Binaries(**programs, helpers=str(self.folder / "helpers"))

    @property
    def skopeo(self) -> Path:
        return self.folder / "bin" / "skopeo"


def fetch(suite: str, cache: Path) -> Client:
    """The client of a Debian suite, from the cache or the mirror.

    :raises Unavailable: this is no machine for it. What should work and does not is another error.
    """

    def make(staging: Path, folder: Path) -> None:
        unpack(suite, PACKAGES, staging / "root")
        _assemble(staging / "root", staging, folder)

    folder = made_once(f"the podman of Debian {suite}", f"podman-{suite}", _FORMAT, cache, make, _check)
    return Client(suite, folder)


def binaries_of(suite: str, cache: Path) -> Binaries:
    """The programs of a suite's podman: the machine's own where that is of the wanted age, else fetched ones.

    :raises Unavailable: see :func:`fetch`.
    """
    if suite == "bookworm" and shutil.which("podman") and run("podman", "--version").stdout.startswith(b"podman version 4."):
        return Binaries()
    return fetch(suite, cache).binaries


def _check(folder: Path) -> None:
    run(folder / "bin" / "podman", "--version")


def _assemble(root: Path, staging: Path, folder: Path) -> None:
    """bin/ and helpers/ of `staging`, whose programs work once it is called `folder`."""
    final = folder / root.relative_to(staging)
    for kind, names in (("bin", PROGRAMS), ("helpers", HELPERS)):
        (staging / kind).mkdir()
        for name in names:
            source = next(path for place in ("usr/bin", *_HELPER_FOLDERS) if (path := root / place / name).exists())
            target = staging / kind / name
            shutil.copy(source, target)
            own_libraries(target, root, final)
    kept = {"usr/lib/x86_64-linux-gnu", "usr/lib64", "lib/x86_64-linux-gnu", "lib64"}
    for path in [*root.glob("*"), *root.glob("usr/*"), *root.glob("usr/lib/*"), *root.glob("lib/*")]:
        name = str(path.relative_to(root))
        if not path.is_symlink() and path.is_dir() and not any(f"{one}/".startswith(f"{name}/") or name == one for one in kept):
            shutil.rmtree(path)
