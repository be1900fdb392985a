"""Layer images as fsck.erofs and the kernel see them: alone, and as the lower layers of an overlay."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from als.erofs.profile import LAYER, LAYER_BARE, Profile
from als.erofs.writer import write_image
from als.model.tree import WHITEOUT, Content, Directory, FileType, Inode, Node, Tree
from tests.erofs.mounts import expected, inline_data, mounted, overlaid, seen
from tests.erofs.trees import crowded, from_truth, trees

pytestmark = pytest.mark.usefixtures("as_root")
_NUMBERS = itertools.count()


def write(tree: Tree, folder: Path, profile: Profile = LAYER) -> Path:
    file = folder / f"i{next(_NUMBERS)}"
    with file.open("wb") as out:
        write_image(tree, out, profile)
    return file


def fsck(tools: Path, image: Path) -> tuple[int, str]:
    done = subprocess.run([str(tools / "fsck.erofs"), str(image)], capture_output=True, timeout=120, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


def expect_same(tree: Tree, folder: Path, *, profile: Profile = LAYER, loop: bool = False) -> None:
    image = write(tree, folder, profile)
    with mounted(image, folder / "mnt", loop=loop) as top:
        assert seen(top) == expected(tree, profile)
        for path, data in inline_data(tree).items():
            assert (top / os.fsdecode(path)).read_bytes() == data
    image.unlink()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(tree=trees(layer=True), profile=st.sampled_from([LAYER, LAYER_BARE]))
def test_the_mount_equals_the_tree(module_dir: Path, tree: Tree, profile: Profile) -> None:
    expect_same(tree, module_dir, profile=profile)


@pytest.mark.parametrize("loop", [False, True])
def test_a_crowded_tree_on_both_kinds_of_mount(module_dir: Path, loop: bool) -> None:
    expect_same(crowded(7, files=3000), module_dir, loop=loop)


@pytest.mark.parametrize("layer", [0, 1])
def test_the_fixtures_layers(fixtures_dir: Path, module_dir: Path, layer: int) -> None:
    truth = json.loads((fixtures_dir / "truth-tiny.json").read_text("utf-8"))
    expect_same(from_truth(truth["layers"][layer]["entries"]), module_dir)


def test_a_directory_of_70000_subdirectories_and_links(module_dir: Path) -> None:
    shared = Inode(FileType.FILE, 0o644)
    entries: dict[bytes, Node] = {b"d%d" % number: Directory(Inode(FileType.DIR, 0o755)) for number in range(70_000)}
    entries |= {b"f%d" % number: shared for number in range(70_000)}
    expect_same(Tree(Directory(Inode(FileType.DIR, 0o755), entries)), module_dir)


def test_large_xattrs(module_dir: Path) -> None:
    xattrs = ((b"trusted." + b"n" * 247, b"\xff" * 65535), (b"user.x", b""), (b"user.y", b"y" * 50_000))
    entries: dict[bytes, Node] = {
        b"file": Inode(FileType.FILE, 0o644, xattrs=xattrs),
        b"link": Inode(FileType.SYMLINK, 0o777, target=b"x" * 4000, xattrs=xattrs[:1]),
    }
    tree = Tree(Directory(Inode(FileType.DIR, 0o755, xattrs=xattrs[1:]), entries))
    image = write(tree, module_dir)
    with mounted(image, module_dir / "mnt") as top:
        assert seen(top) == expected(tree, LAYER)


@pytest.mark.parametrize("profile", [LAYER, LAYER_BARE])
def test_fsck_finds_nothing(fixtures_dir: Path, upstream_tools: Path, module_dir: Path, profile: Profile) -> None:
    truth = json.loads((fixtures_dir / "truth-tiny.json").read_text("utf-8"))
    layers = [from_truth(layer["entries"]) for layer in truth["layers"]]
    for tree in [*layers, crowded(3, files=800)]:
        image = write(tree, module_dir, profile)
        assert fsck(upstream_tools, image) == (0, "")
    with image.open("r+b") as file:  # The control: it does find what is wrong.
        file.seek(1152)
        file.write(b"\xff" * 64)
    assert fsck(upstream_tools, image)[0] != 0


class Stack:
    """Layers under an overlay, each with its forest, as podman mounts them."""

    def __init__(self, folder: Path, profile: Profile) -> None:
        self.folder = folder
        self.profile = profile
        self.layers: list[tuple[Tree, Path]] = []

    def file(self, text: bytes, xattrs: tuple[tuple[bytes, bytes], ...] = ()) -> Inode:
        """A file whose bytes are in the forest of the layer that is being made."""
        name = bytes([len(self.layers)]) + text.ljust(31, b"\xaa")
        forest = self.folder / f"f{len(self.layers)}"
        path = forest / self.profile.redirect_to(name).decode().lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
        return Inode(FileType.FILE, 0o644, size=len(text), content=Content(name, None), xattrs=xattrs)

    def add(self, entries: dict[bytes, Node]) -> None:
        """Put a layer on top."""
        forest = self.folder / f"f{len(self.layers)}"
        forest.mkdir(exist_ok=True)
        self.layers.append((Tree(Directory(Inode(FileType.DIR, 0o755), entries)), forest))

    @contextlib.contextmanager
    def mounted(self, *, upper: Path | None = None) -> Iterator[Path]:
        """The overlay of all layers."""
        with contextlib.ExitStack() as mounts:
            lowers: list[Path] = []
            for tree, forest in reversed(self.layers):
                image = write(tree, self.folder, self.profile)
                lowers += [mounts.enter_context(mounted(image, self.folder / f"m{len(lowers)}")), forest]
            yield mounts.enter_context(overlaid(lowers, self.folder / "o", upper=upper))


def folder(*, opaque: bool = False, **entries: Node) -> Directory:
    return Directory(Inode(FileType.DIR, 0o755), {name.encode(): node for name, node in entries.items()}, opaque)


@pytest.fixture(params=[LAYER, LAYER_BARE], ids=["hidden", "bare"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Stack:
    return Stack(tmp_path, request.param)


def test_an_overlay_of_two_layers(stack: Stack) -> None:
    linked = stack.file(b"linked")
    small = Inode(FileType.FILE, 0o644, size=5, data=b"small")
    stack.add(
        {
            b"etc": folder(gone=stack.file(b"gone"), stay=stack.file(b"stay"), small=small),
            b"opt": folder(data=folder(old=stack.file(b"old"))),
            b"one": linked,
            b"two": linked,
            b"gone-too": folder(inner=stack.file(b"inner")),
        }
    )
    stack.add(
        {
            b"etc": folder(gone=WHITEOUT, new=stack.file(b"new")),
            b"opt": folder(data=folder(opaque=True, young=stack.file(b"young"))),
            b"gone-too": WHITEOUT,
        }
    )
    with stack.mounted() as top:
        found = {str(path.relative_to(top)) for path in top.rglob("*")}
        files = {"etc/stay", "etc/small", "etc/new", "opt/data/young", "one", "two"}
        assert found == files | {"etc", "opt", "opt/data"}
        for path in files:
            assert (top / path).read_bytes() == (b"linked" if path in ("one", "two") else Path(path).name.encode())
        for path in ["etc/gone", "gone-too", "gone-too/inner", "opt/data/old", ".als", "00", "ff"]:
            assert not os.path.lexists(top / path)
        assert os.listxattr(top / "etc/new") == []


def test_layers_may_hold_what_looks_like_a_forest(tmp_path: Path) -> None:
    stack = Stack(tmp_path, LAYER)
    stack.add({b"00": stack.file(b"zero"), b"ab": folder(cd=stack.file(b"abcd")), b"ff": folder(x=stack.file(b"ffx"))})
    stack.add({b"ff": WHITEOUT, b"etc": folder(new=stack.file(b"new"))})
    stack.add({b"other": stack.file(b"other"), b"ff": stack.file(b"file")})
    with stack.mounted() as top:
        assert sorted(path.name for path in top.iterdir()) == ["00", "ab", "etc", "ff", "other"]
        assert (top / "00").read_bytes() == b"zero"
        assert (top / "ab/cd").read_bytes() == b"abcd"
        assert (top / "ff").read_bytes() == b"file"
        assert (top / "etc/new").read_bytes() == b"new"


def test_a_container_changes_its_files(stack: Stack, module_dir: Path) -> None:
    stack.add({b"mode": stack.file(b"mode"), b"grown": stack.file(b"grown"), b"kept": stack.file(b"kept")})
    with stack.mounted(upper=module_dir / f"u{next(_NUMBERS)}") as top:
        (top / "mode").chmod(0o600)
        with (top / "grown").open("ab") as file:
            file.write(b" up")
        (top / ".als").mkdir()
        (top / "ab").mkdir()
        assert list((top / ".als").iterdir()) == []
        contents = {path.name: path.read_bytes() for path in top.iterdir() if path.is_file()}
        assert contents == {"mode": b"mode", "grown": b"grown up", "kept": b"kept"}
    objects = [path.read_bytes() for path in (stack.folder / "f0").rglob("*") if path.is_file()]
    assert sorted(objects) == [b"grown", b"kept", b"mode"]


def test_overlays_own_xattrs_in_a_layer_are_harmless(stack: Stack) -> None:
    evil = ((b"trusted.overlay.metacopy", b""), (b"trusted.overlay.redirect", b"/etc/shadow"), (b"user.overlay.opaque", b"y"))
    stack.add({b"etc": folder(shadow=stack.file(b"secret")), b"dir": folder(below=stack.file(b"below"))})
    directory = Directory(Inode(FileType.DIR, 0o755, xattrs=((b"trusted.overlay.opaque", b"y"), *evil[2:])))
    stack.add({b"evil": stack.file(b"good", xattrs=evil), b"dir": directory})
    with stack.mounted() as top:
        assert (top / "evil").read_bytes() == b"good"
        assert (top / "dir/below").read_bytes() == b"below"
        shown = {name: os.getxattr(top / "evil", name) for name in os.listxattr(top / "evil")}
        assert shown.pop("user.overlay.overlay.opaque") == b"y"
        release = tuple(int(part) for part in os.uname().release.split(".")[:2])
        unescaped = {"trusted.overlay.metacopy": b"", "trusted.overlay.redirect": b"/etc/shadow"}
        assert shown == (unescaped if release >= (6, 8) else {})
