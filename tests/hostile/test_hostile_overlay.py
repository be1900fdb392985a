"""Layers that would speak to overlay: what the kernel is given, and what it makes of it in a real overlay mount."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from als.service import Service
from tests.harness.ocilayout import Layout, TarBuilder
from tests.harness.podman import Podman, Storage
from tests.harness.system import run, unmount_below
from tests.hostile.conftest import pull

SECRET = b"of the layer below\n" * 10
OWN = b"of the layer itself\n" * 20
CLAIMS = (
    "metacopy",
    "redirect",
    "opaque",
    "origin",
    "impure",
    "nlink",
    "upper",
    "protattr",
    "whiteout",
    "xwhiteouts",
    "overlay.opaque",
)
OURS = {"trusted.overlay.metacopy", "trusted.overlay.redirect"}
Mounted = Callable[..., Path]


def claims(prefix: str, value: str = "/secret") -> dict[str, str]:
    """PAX records that claim to be overlay's own."""
    values = {"metacopy": "", "opaque": "y", "impure": "y", "redirect": value, "overlay.opaque": "y"}
    return {f"SCHILY.xattr.{prefix}.overlay.{name}": values.get(name, "x") or "\0" for name in CLAIMS}


def xattrs(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}


@pytest.fixture
def mounted(service: Service, layout: Layout, tmp_path: Path) -> Iterator[Mounted]:
    """Pull an image and mount it as podman does; with `diff`, give the topmost layer's own mount instead."""
    target = tmp_path / "merged"

    def make(*tars: bytes, options: str = "metacopy=on", diff: bool = False) -> Path:
        layout.add_image("bad", [layout.add_layer(tar) for tar in tars])
        image = pull(service, layout)
        if diff:
            return service.diff_n.diff(image.chain[-1])
        lowers = []
        for number, chain_id in enumerate(reversed(image.chain)):
            path = service.diff_n.diff(chain_id)
            # Short names: what is given to mount(2) is a page.
            for name, source in ((f"{number}d", path), (f"{number}f", path.parent / "diff1")):
                (tmp_path / name).symlink_to(source)
                lowers.append(str(tmp_path / name))
        target.mkdir(exist_ok=True)
        run("mount", "-t", "overlay", "overlay", "-o", f"ro,nodev,{options},lowerdir={':'.join(lowers)}", target)
        return target

    yield make
    unmount_below(tmp_path)


def layers() -> tuple[bytes, bytes]:
    below = TarBuilder().file("secret", SECRET, 0o600).directory("d").file("d/kept", b"kept" * 50).file("gone", b"g" * 99)
    above = TarBuilder().directory("d", pax_headers={**claims("trusted"), **claims("user")})
    above.file("f", OWN, pax_headers={**claims("trusted"), **claims("user")}).file("d/new", b"new")
    above.file("tiny", b"tiny", pax_headers=claims("trusted", "/.als/" + "0" * 64))
    above.symlink("l", "f").whiteout("gone").file("up", OWN, pax_headers=claims("trusted", "/../../../../etc/passwd"))
    return below.build(), above.build()


def test_nothing_of_overlays_reaches_the_kernel_as_such(mounted: Mounted) -> None:
    """Of the mounted image itself: what bears overlay's names is what als wrote, and the layer's stand beside it, escaped."""
    root = mounted(*layers(), diff=True)
    seen = 0
    for path in (root, *root.rglob("*")):
        if path.is_char_device():
            continue
        found = xattrs(path)
        plain = {name for name in found if re.match(r"(trusted|user)\.overlay\.(?!overlay\.)", name)}
        assert plain <= OURS, path
        if "trusted.overlay.redirect" in plain:
            assert re.fullmatch(rb"/\.als/[0-9a-f]{64}", found["trusted.overlay.redirect"]), path
            assert found["trusted.overlay.metacopy"] == b""
        seen += sum(name.startswith(("trusted.overlay.overlay.", "user.overlay.overlay.")) for name in found)
    assert seen == 6 * len(CLAIMS)
    assert "trusted.overlay.opaque" not in xattrs(root / "d")


def test_a_real_overlay_is_not_fooled(mounted: Mounted) -> None:
    root = mounted(*layers())
    assert (root / "f").read_bytes() == OWN
    assert (root / "up").read_bytes() == OWN
    assert (root / "tiny").read_bytes() == b"tiny"
    assert (root / "secret").read_bytes() == SECRET
    assert (root / "f").stat().st_size == len(OWN)
    assert sorted(os.listdir(root / "d")) == ["kept", "new"], "the directory is not opaque"
    assert sorted(os.listdir(root)) == ["d", "f", "l", "secret", "tiny", "up"]
    assert not os.path.lexists(root / ".als")


def test_nor_one_that_heeds_user_xattrs(mounted: Mounted) -> None:
    """On a mount with userxattr, as rootless ones are, ``user.overlay.*`` would be overlay's own."""
    root = mounted(*layers(), options="userxattr")
    assert sorted(os.listdir(root / "d")) == ["kept", "new"]
    assert (root / "tiny").read_bytes() == b"tiny"


def test_names_of_composefs_in_an_overlay(mounted: Mounted) -> None:
    """``/00`` to ``/ff`` of layer and layer below are merged like all others, and none of them leads to an object."""
    below, above = TarBuilder(), TarBuilder()
    for number in range(256):
        below.file(f"{number:02x}/below", b"b" * 100)
        above.file(f"{number:02x}/above", b"a" * (100 + number))
    root = mounted(below.build(), above.build())
    for number in range(256):
        assert sorted(os.listdir(root / f"{number:02x}")) == ["above", "below"]
    assert (root / "ff/above").read_bytes() == b"a" * 355
    assert len(os.listdir(root)) == 256


OPAQUE_ROOT = (
    TarBuilder().file("a", b"a" * 100).directory("d").file("d/x", b"x" * 100).build(),
    TarBuilder().file(".wh..wh..opq", b"").file("b", b"b" * 100).directory("d").file("d/y", b"y" * 100).build(),
    TarBuilder().file("c", b"c" * 100).build(),
)


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_an_opaque_root_is_what_podman_makes_of_it(mounted: Mounted, layout: Layout, session_dir: Path) -> None:
    """podman marks the layer's root opaque, and overlay does not look at that mark on a root: so nothing is hidden."""
    root = mounted(*OPAQUE_ROOT)
    ours = [name for name in names(root) if name not in PODMAN_MAKES]
    with Podman(session_dir / "op", Storage(metacopy=True)) as podman:
        podman.pull(layout.name("bad"))
        image = podman.text("images", "-q", "--no-trunc").split()[0]
        with podman.mounted(image) as plain:
            theirs = [name for name in names(plain) if name not in PODMAN_MAKES]
    assert ours == theirs
    assert {"a", "b", "c", "d/x", "d/y"} <= set(ours)
    assert (root / "b").read_bytes() == b"b" * 100


PODMAN_MAKES = {
    "dev",
    "etc",
    "proc",
    "run",
    "sys",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "run/.containerenv",
    "etc/mtab",
}
