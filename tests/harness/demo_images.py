"""The two images of the demo and of bench/: a Debian root file system with Python, Perl and git, about 200 MB in 5,000 files.

`first` and `second` share more than 90 % of their bytes but not one layer, as two builds a week apart do: the second's
files are spread over other layers, all have other times, and one file in five of /usr/share has other content.
The files come from Debian packages, fetched by apt from wherever this machine has its packages.
Without apt they cannot be made.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from tests.harness.images import GROUP, PASSWD
from tests.harness.ocilayout import EPOCH, Layout
from tests.harness.system import run

PACKAGES = ("bash", "coreutils", "findutils", "git", "grep", "perl", "python3", "sed")
RECIPE = "1"
"""Changes whenever what is built changes, so that nothing stale is taken from the cache."""
MERGED = ("bin", "sbin", "lib", "lib64")
FOLDERS = ("dev", "proc", "sys", "tmp", "root", "run", "etc", "var/lib")
WEEK = 7 * 24 * 3600


@dataclass(frozen=True)
class DemoImages:
    """Both images in one OCI layout, under the tags ``first`` and ``second``."""

    layout: Layout
    tags: tuple[str, str] = ("first", "second")


def fetch_packages(folder: Path) -> list[Path]:
    """The .deb files of `PACKAGES` and of all they depend on, through the machine's own apt, whose state stays as it is.

    :raises RuntimeError: this machine has no apt.
    :raises CommandFailed: the packages cannot be had.
    """
    if shutil.which("apt-get") is None:
        raise RuntimeError("the demo images are made from Debian packages, and this machine has no apt-get")
    archives = folder / "debs"
    (archives / "partial").mkdir(parents=True)
    (folder / "nothing-installed").touch()
    options = {
        "Dir::State::status": folder / "nothing-installed",
        "Dir::Cache::archives": archives,
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "root",
        "Acquire::Retries": "3",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    command = ["apt-get", "-qq", *words, "-y", "--no-install-recommends", "--download-only", "install", *PACKAGES]
    if run(*command, deadline=300, status=None).returncode:
        run("apt-get", "-qq", "update", deadline=300, status=None)
        run(*command, deadline=300)
    return sorted(archives.glob("*.deb"))


def unpack(packages: Iterable[Path], root: Path) -> None:
    """Lay the packages' files out as a root file system with merged /usr; no maintainer script runs."""
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for package in packages:
        stream = run("dpkg-deb", "--fsys-tarfile", package).stdout
        run("tar", "-x", "--keep-directory-symlink", "-C", root, data=stream)
    (root / "etc" / "passwd").write_bytes(PASSWD)
    (root / "etc" / "group").write_bytes(GROUP)


def _names(root: Path) -> list[str]:
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        relative = os.path.relpath(folder, root)
        found += [os.path.normpath(f"{relative}/{name}") for name in (*folders, *files)]
    return sorted(found)


def _hash(name: str) -> int:
    return hashlib.sha256(name.encode()).digest()[0]


def _rebuilt(name: str, data: bytes) -> bytes:
    """What the second image has in this file."""
    if name.startswith(("usr/share/", "usr/lib/python3")) and _hash(name) % 5 == 0:
        return data + b"\n# rebuilt\n"
    return data


def _same(_name: str, data: bytes) -> bytes:
    return data


def write_layer(sink: IO[bytes], root: Path, names: Iterable[str], change: Callable[[str, bytes], bytes], shift: int) -> None:
    """Write these names, with the directories they are in, as a tar stream.

    :param change: gives a regular file's content, from its name and what is on disk.
    :param shift: seconds added to every modification time.
    """
    wanted = {str(parent) for name in names for parent in (Path(name), *Path(name).parents)} - {"."}
    links: dict[int, str] = {}
    with tarfile.TarFile(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(wanted):
            path = root / name
            status = path.lstat()
            info = tar.gettarinfo(str(path), name)
            info.uname = info.gname = ""
            info.mtime = int(status.st_mtime) + shift if not stat.S_ISDIR(status.st_mode) else EPOCH + shift
            if not stat.S_ISREG(status.st_mode):
                tar.addfile(info)
            elif status.st_ino in links:
                info.type, info.linkname, info.size = tarfile.LNKTYPE, links[status.st_ino], 0
                tar.addfile(info)
            else:
                links[status.st_ino] = name
                data = change(name, path.read_bytes())
                info.type, info.size = tarfile.REGTYPE, len(data)
                tar.addfile(info, BytesIO(data))


def _first_layer_of(name: str) -> int:
    if name.startswith(("usr/lib/python3", "usr/bin/python3", "usr/share/python3")):
        return 2
    return 1 if name.startswith(("usr/share/", "usr/lib/git-core/")) else 0


def _second_layer_of(name: str) -> int:
    return _hash(name) % 2


def _write_images(root: Path, layout: Layout) -> None:
    names = _names(root)
    plans = (("first", 3, _first_layer_of, _same, 0), ("second", 2, _second_layer_of, _rebuilt, WEEK))
    for tag, count, layer_of, change, shift in plans:
        groups: list[list[str]] = [[] for _ in range(count)]
        for name in names:
            groups[0 if name in MERGED else layer_of(name)].append(name)
        layers = []
        for group in groups:

            def write(
                sink: IO[bytes], group: list[str] = group, change: Callable[[str, bytes], bytes] = change, shift: int = shift
            ) -> None:
                write_layer(sink, root, group, change, shift)

            layers.append(layout.add_layer(write))
        layout.add_image(tag, layers, {"Cmd": ["/usr/bin/python3"]})


def demo_images(cache: Path) -> DemoImages:
    """The two images; built on first use (some seconds) and kept in the folder `cache`."""
    release = hashlib.sha256(Path("/etc/os-release").read_bytes()).hexdigest()[:12]
    folder = cache / f"demo-{RECIPE}-{release}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="demo-", dir=cache) as name:
            work = Path(name)
            (work / "root").mkdir()
            unpack(fetch_packages(work), work / "root")
            _write_images(work / "root", Layout(work / "layout"))
            (work / "layout").rename(folder)
    return DemoImages(Layout(folder))
