"""Trees come back from their images as they were; images that nobody wrote are refused."""

from __future__ import annotations

import dataclasses
import io
import mmap
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from als.erofs.profile import COMPOSEFS_V0, COMPOSEFS_V1, LAYER, LAYER_BARE, Profile
from als.erofs.reader import read_image
from als.erofs.writer import write_image
from als.errors import StoreDamaged
from als.model.forest import forest_path
from als.model.tree import Content, Directory, FileType, Inode, Tree
from tests.erofs.trees import crowded, describe, trees

USER = dataclasses.replace(LAYER, overlay=b"user.overlay.")
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def image_of(tree: Tree, profile: Profile) -> bytes:
    out = io.BytesIO()
    write_image(tree, out, profile)
    return out.getvalue()


@QUICK
@given(tree=trees(layer=True), profile=st.sampled_from([LAYER, LAYER_BARE, USER]))
def test_layers_come_back(tree: Tree, profile: Profile) -> None:
    image = image_of(tree, profile)
    assert describe(read_image(image, profile)) == describe(tree)
    assert image_of(read_image(image, profile), profile) == image


@QUICK
@given(tree=trees(layer=False), profile=st.sampled_from([COMPOSEFS_V0, COMPOSEFS_V1]))
def test_whole_images_come_back(tree: Tree, profile: Profile) -> None:
    assert describe(read_image(image_of(tree, profile), profile)) == describe(tree)


@pytest.mark.parametrize("seed", range(4))
def test_crowded_trees_come_back_from_a_mapped_file(tmp_path: Path, seed: int) -> None:
    tree = crowded(seed, files=1500)
    file = tmp_path / "image"
    file.write_bytes(image_of(tree, LAYER))
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with memoryview(mapped) as view:
            found = read_image(view, LAYER)
        assert describe(found) == describe(tree)


def test_names_that_are_no_sha256() -> None:
    content = Content(b"\x5a" * 32, None)
    tree = Tree(Directory(Inode(FileType.DIR, 0o755), {b"f": Inode(FileType.FILE, 0o644, size=9, content=content)}))
    found = read_image(image_of(tree, LAYER), LAYER, names_are_sha256=False)
    assert describe(found) == describe(tree)


def test_the_redirect_is_the_forests_path() -> None:
    name = bytes(range(32))
    assert forest_path(name) == ".als/" + name.hex()
    assert LAYER.redirect_to(name) == b"/" + forest_path(name).encode()
    assert LAYER_BARE.redirect_to(name) == b"/00/" + name.hex()[2:].encode()


def test_another_profile_is_refused() -> None:
    image = image_of(crowded(0, files=10), LAYER)
    with pytest.raises(StoreDamaged):
        read_image(image, COMPOSEFS_V1)
    with pytest.raises(StoreDamaged):
        read_image(image, LAYER_BARE)


@QUICK
@given(seed=st.integers(0, 1 << 32), flips=st.integers(1, 8), low=st.booleans())
def test_damage_is_an_error_or_a_tree(seed: int, flips: int, low: bool) -> None:
    chance = random.Random(seed)
    image = bytearray(image_of(crowded(seed % 3, files=60), LAYER))
    for _ in range(flips):
        image[chance.randrange(6000 if low else len(image))] ^= 1 << chance.randrange(8)
    try:
        found = read_image(bytes(image), LAYER)
    except StoreDamaged as error:
        assert error.what
    else:
        assert len(list(found.walk())) <= len(image) // 12


@pytest.mark.parametrize("size", [0, 1, 31, 1024, 1151, 4096, 8192])
def test_truncated_images_are_refused(size: int) -> None:
    with pytest.raises(StoreDamaged):
        read_image(image_of(crowded(1, files=60), LAYER)[:size], LAYER)


def test_a_loop_of_directories_is_refused() -> None:
    inner = Directory(Inode(FileType.DIR, 0o755))
    outer = Directory(Inode(FileType.DIR, 0o755), {b"x": inner})
    image = bytearray(image_of(Tree(outer), LAYER))
    root_nid = int.from_bytes(image[1024 + 14 : 1024 + 16], "little")
    start = root_nid * 32 + 32
    entry = next(
        at for at in range(start, start + 60, 12) if image[at : at + 8] != image[start : start + 8] and image[at + 10] == 2
    )
    image[entry : entry + 8] = root_nid.to_bytes(8, "little")
    with pytest.raises(StoreDamaged, match="second name"):
        read_image(bytes(image), LAYER)


def test_inline_data_win_over_content() -> None:
    inode = Inode(FileType.FILE, 0o644, size=3, content=Content.of_sha256(bytes(32)), data=b"abc")
    tree = Tree(Directory(Inode(FileType.DIR, 0o755), {b"f": inode}))
    found = read_image(image_of(tree, LAYER), LAYER).find(b"f")
    assert isinstance(found, Inode)
    assert found.data == b"abc"
    assert found.content is None
    assert dataclasses.replace(inode, content=None).size == found.size
