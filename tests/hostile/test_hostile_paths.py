"""Names that lead out of the layer, or pretend to be something that als or overlay put there."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from als.errors import AlsError, BadImage, LimitExceeded, Unsupported
from als.model.limits import Limits
from als.service import Service
from als.store.images import ImageRecord
from tests.formats.tarblocks import END, header, padded, pax
from tests.harness.ocilayout import Layout, TarBuilder
from tests.hostile.conftest import OpenService, pull, refused

SECRET = "/etc/als-hostile-secret"


def device(path: str, major: int, minor: int) -> bytes:
    return TarBuilder().add(path, tarfile.CHRTYPE, devmajor=major, devminor=minor).build()


REFUSED: dict[str, tuple[bytes, type[AlsError]]] = {
    "dot-dot": (TarBuilder().file("../x", b"x" * 100).build(), BadImage),
    "dot-dot below": (TarBuilder().file("a/../../x", b"x" * 100).build(), BadImage),
    "dot-dot directory": (TarBuilder().directory("..").build(), BadImage),
    "hardlink out": (TarBuilder().hardlink("x", "../../../../etc/passwd").build(), BadImage),
    "hardlink absolute": (TarBuilder().hardlink("x", "/etc/passwd").build(), BadImage),
    "hardlink through a symlink": (TarBuilder().symlink("l", "/etc").hardlink("x", "l/passwd").build(), BadImage),
    "hardlink to itself": (TarBuilder().hardlink("x", "x").build(), BadImage),
    "hardlinks in a circle": (TarBuilder().hardlink("a", "b").hardlink("b", "a").build(), BadImage),
    "hardlink to a directory": (TarBuilder().directory("d").hardlink("x", "d").build(), BadImage),
    "hardlink to the root": (TarBuilder().hardlink("x", "/").build(), BadImage),
    "symlinks in a circle": (TarBuilder().symlink("a", "b").symlink("b", "a").file("a/x", b"x").build(), BadImage),
    "file below a file": (TarBuilder().file("a", b"x").file("a/b", b"y").build(), BadImage),
    "root as a file": (header(b"./") + END, BadImage),
    "root as a symlink": (TarBuilder().symlink("./", "/etc").build(), BadImage),
    "empty name": (header(b"") + END, BadImage),
    "NUL in a name": (pax(b"path=a\0b") + header(b"x") + END, BadImage),
    "a long name": (pax(b"path=" + b"x" * 256) + header(b"x") + END, LimitExceeded),
    "a long directory": (pax(b"path=" + b"x" * 256 + b"/f") + header(b"x") + END, LimitExceeded),
    "a long link": (pax(b"linkpath=" + b"x" * 4096) + header(b"x", b"2") + END, BadImage),
    "an empty link": (header(b"x", b"2") + END, BadImage),
    "an unknown type": (header(b"x", b"Z") + END, Unsupported),
    "a device too large": (device("x", 1 << 12, 0), BadImage),
    "an owner too large": (pax(b"uid=4294967295") + header(b"x") + END, BadImage),
    "a negative size": (pax(b"size=-1") + header(b"x") + END, BadImage),
    "a name of ours": (TarBuilder().file(".als", b"x").build(), Unsupported),
    "below a name of ours": (TarBuilder().file(".als/" + "0" * 64, b"x" * 100).build(), Unsupported),
    "our name through a symlink": (TarBuilder().symlink("l", "/").file("l/.als/x", b"x" * 100).build(), Unsupported),
    "our name by a hardlink": (TarBuilder().file("x", b"x" * 100).hardlink(".als", "x").build(), Unsupported),
    "our name as a whiteout": (TarBuilder().whiteout(".als").build(), Unsupported),
    "a whiteout of nothing": (TarBuilder().file(".wh.", b"").build(), BadImage),
    "a whiteout of the parent": (TarBuilder().file("d/.wh...", b"").build(), BadImage),
    "below a whiteout": (TarBuilder().file(".wh.d/x", b"x").build(), BadImage),
    "an xattr without a name": (pax(b"SCHILY.xattr.=x") + header(b"x") + END, BadImage),
    "an xattr of a long name": (pax(b"SCHILY.xattr.user." + b"n" * 300 + b"=x") + header(b"x") + END, BadImage),
    "an xattr that gets too long": (pax(b"SCHILY.xattr.user.overlay." + b"n" * 240 + b"=x") + header(b"x") + END, Unsupported),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(service: Service, layout: Layout, name: str) -> None:
    tar, error = REFUSED[name]
    layout.add_image("bad", [layout.add_layer(tar)])
    refused(service, layout, error)


def root_of(service: Service, image: ImageRecord) -> Path:
    return service.diff_n.diff(image.chain[-1])


@pytest.fixture
def served(service: Service, layout: Layout) -> Callable[..., Path]:
    """Pull a layer and return where it is mounted."""

    def make(*tars: bytes) -> Path:
        layout.add_image("good", [layout.add_layer(tar) for tar in tars])
        return root_of(service, pull(service, layout, "good"))

    return make


def test_absolute_names_are_the_layers_own(served: Callable[..., Path]) -> None:
    root = served(TarBuilder().file(SECRET, b"mine").file("/../../up", b"up").hardlink("/h", SECRET).build())
    assert (root / SECRET[1:]).read_bytes() == b"mine"
    assert (root / "up").read_bytes() == b"up"
    assert (root / "h").stat().st_ino == (root / SECRET[1:]).stat().st_ino
    assert not Path(SECRET).exists()


def test_symlinks_lead_within_the_layer(served: Callable[..., Path]) -> None:
    """What is written through a symlink lands where a process chrooted into the layer would put it."""
    tar = TarBuilder().directory("etc").symlink("abs", "/etc").symlink("up", "../../../../etc").symlink("d", "etc")
    tar.file("abs/a", b"a").file("up/b", b"b").file("d/../d/c", b"c").hardlink("h", "abs/a")
    root = served(tar.build())
    assert sorted(os.listdir(root / "etc")) == ["a", "b", "c"]
    assert (root / "abs").readlink() == Path("/etc")
    assert (root / "h").read_bytes() == b"a"
    assert not Path("/etc/a").exists()


def test_a_symlink_that_becomes_a_directory(served: Callable[..., Path]) -> None:
    tar = TarBuilder().symlink("d", "/tmp").directory("d").file("d/x", b"x").directory("e").symlink("f", "e").file("f", b"f")
    root = served(tar.build())
    assert (root / "d").is_dir() and not (root / "d").is_symlink()
    assert (root / "d/x").read_bytes() == b"x"
    assert (root / "f").read_bytes() == b"f"
    assert os.listdir(root / "e") == []


def test_names_of_composefs(served: Callable[..., Path]) -> None:
    """Directories that composefs would keep for itself are nothing special to us, and no way into the objects."""
    tar = TarBuilder()
    for number in range(256):
        tar.file(f"{number:02x}/{'0' * 62}", b"%d" % number * 50)
    root = served(tar.build())
    assert len([name for name in os.listdir(root) if len(name) == 2]) == 256
    assert (root / "ff" / ("0" * 62)).stat().st_size == len(b"255" * 50)


def test_a_deep_tree(served: Callable[..., Path]) -> None:
    root = served(pax(b"path=" + b"d/" * 1000 + b"f", b"size=100") + header(b"x", size=b"144") + padded(b"x" * 100) + END)
    fd = os.open(root, os.O_RDONLY)
    try:
        for _ in range(1000):
            below = os.open("d", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = below
        assert os.stat("f", dir_fd=fd).st_size == 100
    finally:
        os.close(fd)


def test_devices_and_setuid(served: Callable[..., Path]) -> None:
    """They keep what the image says of them, and lie on mounts where they have no power."""
    tar = TarBuilder().add("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
    tar.add("disk", tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o600).add("fifo", tarfile.FIFOTYPE)
    root = served(tar.file("su", Path("/bin/true").read_bytes(), 0o6755).build())
    assert stat.S_ISCHR((root / "null").stat().st_mode)
    assert (root / "disk").stat().st_rdev == os.makedev(8, 0)
    assert stat.S_IMODE((root / "su").stat().st_mode) == 0o6755
    assert (root / "fifo").is_fifo()
    with pytest.raises(PermissionError):
        (root / "null").read_bytes()
    options = subprocess.run(["findmnt", "-no", "OPTIONS", root], capture_output=True, text=True, check=True).stdout.strip()
    assert {"ro", "nodev", "nosuid"} <= set(options.split(","))


def test_objects_are_nobodys_business(served: Callable[..., Path], service: Service) -> None:
    """An object is root's and has no mode of the image's: no setuid file lies in the store."""
    served(TarBuilder().file("su", b"#!/bin/sh\n" * 50, 0o6777, uid=0).build())
    (stored,) = [path for path in service.layout.objects.rglob("*") if path.is_file()]
    assert stat.S_IMODE(stored.stat().st_mode) & 0o7022 == 0
    assert stat.S_IMODE(service.layout.objects.stat().st_mode) == 0o700


def test_many_names_of_one_file(served: Callable[..., Path]) -> None:
    tar = TarBuilder().file("f", b"x" * 100)
    for number in range(5000):
        tar.hardlink(f"l{number}", f"l{number - 1}" if number else "f")
    root = served(tar.build())
    assert (root / "l4999").stat().st_nlink == 5001


def test_limits_reach_the_worker(open_service: OpenService, layout: Layout) -> None:
    layout.add_image("bad", [layout.add_layer(TarBuilder().file("a-name", b"x").build())])
    refused(open_service(limits=Limits(name_bytes=5)), layout, LimitExceeded)
