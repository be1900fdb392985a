"""Objects and forests on a real file system."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from als.errors import StoreDamaged, StoreError, StoreFull
from als.model.forest import forest_path
from als.store.layout import Layout
from als.store.objects import Forest, add_to_forest, forest_names, link_or_copy
from tests.harness.system import unmount_below


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "root")
    made.create()
    return made


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_same_content_in_two_layers_is_one_inode(layout: Layout, tmp_path: Path) -> None:
    first, second = Forest(layout, tmp_path / "a"), Forest(layout, tmp_path / "b")
    sha256 = first.add(b"content")
    first.commit()
    assert second.add(b"content") == sha256
    assert second.new_bytes == 0
    second.commit()
    inodes = {
        inode(layout.object(sha256)),
        inode(tmp_path / "a" / forest_path(sha256)),
        inode(tmp_path / "b" / forest_path(sha256)),
    }
    assert len(inodes) == 1
    assert layout.object(sha256).read_bytes() == b"content"
    assert layout.object(sha256).stat().st_nlink == 3


def test_two_layers_made_side_by_side_end_with_one_inode(layout: Layout, tmp_path: Path) -> None:
    first, second = Forest(layout, tmp_path / "a"), Forest(layout, tmp_path / "b")
    sha256 = first.add(b"content")
    second.add(b"content")
    assert inode(tmp_path / "a" / forest_path(sha256)) != inode(tmp_path / "b" / forest_path(sha256))
    first.commit()
    second.commit()
    assert inode(tmp_path / "a" / forest_path(sha256)) == inode(tmp_path / "b" / forest_path(sha256))


def test_contents_of_any_kind_are_held_together(layout: Layout, tmp_path: Path) -> None:
    known = Forest(layout, tmp_path / "known")
    known.add(b"known")
    known.commit()
    forest = Forest(layout, tmp_path / "new")
    contents = [b"known", bytearray(1 << 20), memoryview(b"xyz")[1:], *(b"%d" % number for number in range(500))]
    named = {hashlib.sha256(data).digest(): data for data in contents}
    forest.add_all(named)
    forest.add_all(named)
    assert all((tmp_path / "new" / forest_path(name)).read_bytes() == data for name, data in named.items())
    assert forest.sizes == {name: len(data) for name, data in named.items()}
    assert forest.new_bytes == sum(map(len, contents)) - len(b"known")
    linked = hashlib.sha256(b"known").digest()
    assert (tmp_path / "new" / forest_path(linked)).samefile(layout.object(linked))


def test_an_object_that_cannot_be_written_is_named(layout: Layout, tmp_path: Path) -> None:
    forest = Forest(layout, tmp_path / "new")
    name = hashlib.sha256(b"content").digest()
    (tmp_path / "new" / forest_path(name)).write_bytes(b"in the way")
    with pytest.raises(FileExistsError, match=name.hex()):
        forest.add_all({name: b"content"})


def test_a_commit_that_fails_names_nothing(layout: Layout, tmp_path: Path) -> None:
    first, second = Forest(layout, tmp_path / "first"), Forest(layout, tmp_path / "second")
    names = [first.add(b"%d" % number) for number in range(50)]
    assert [second.add(b"%d" % number) for number in range(50)] == names
    shared = Forest(layout, tmp_path / "shared")
    shared.add(b"7")
    shared.commit()
    (tmp_path / "first" / forest_path(names[20])).unlink()
    with pytest.raises(FileNotFoundError):
        first.commit()
    assert [name for name in names if layout.object(name).exists()] == [names[7]]
    second.commit()
    assert all(layout.object(name).samefile(tmp_path / "second" / forest_path(name)) for name in names)


def test_a_layer_that_comes_to_nothing_leaves_no_name_but_what_others_hold(layout: Layout, tmp_path: Path) -> None:
    first, second = Forest(layout, tmp_path / "first"), Forest(layout, tmp_path / "second")
    own, shared = first.add(b"own"), first.add(b"shared")
    first.commit()
    first.commit()
    second.add(b"shared")
    first.withdraw()
    assert not layout.object(own).exists()
    assert layout.object(shared).samefile(tmp_path / "second" / forest_path(shared))


def test_nothing_has_a_name_in_the_store_before_commit(layout: Layout, tmp_path: Path) -> None:
    sha256 = Forest(layout, tmp_path / "a").add(b"content")
    assert not layout.object(sha256).exists()


def test_pieces_and_holes(layout: Layout, tmp_path: Path) -> None:
    forest = Forest(layout, tmp_path / "a")
    writer = forest.writer()
    writer.write(b"start")
    writer.hole(5 << 20)
    writer.write(memoryview(b"end"))
    writer.hole(1000)
    sha256 = writer.finish()
    expected = b"start" + bytes(5 << 20) + b"end" + bytes(1000)
    path = tmp_path / "a" / forest_path(sha256)
    assert sha256 == hashlib.sha256(expected).digest()
    assert path.read_bytes() == expected
    assert path.stat().st_blocks * 512 < 1 << 20, "the hole takes space"


def test_an_abandoned_object_leaves_nothing(layout: Layout, tmp_path: Path) -> None:
    forest = Forest(layout, tmp_path / "a")
    writer = forest.writer()
    writer.write(b"half")
    writer.abandon()
    assert [path for path in (tmp_path / "a").rglob("*") if not path.is_dir()] == []


def test_an_object_of_the_wrong_size_is_not_used(layout: Layout, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"content").digest()
    layout.object(sha256).write_bytes(b"torn")
    with pytest.raises(StoreDamaged, match="4 bytes instead of 7"):
        Forest(layout, tmp_path / "a").add(b"content")


def test_an_inode_without_room_for_links_gets_a_twin(tmp_path: Path, as_root: None) -> None:
    """ext4 takes 65,000 links."""
    image, folder = tmp_path / "fs.img", tmp_path / "fs"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-N", "1024", image], check=True)
    try:
        subprocess.run(["mount", "-o", "loop", image, folder], check=True)
        (folder / "object").write_bytes(b"content" * 1000)
        for number in range(64_999):
            os.link(folder / "object", folder / str(number))
        link_or_copy(folder / "object", folder / "one-more")
        assert (folder / "one-more").read_bytes() == b"content" * 1000
        assert inode(folder / "one-more") != inode(folder / "object")
        assert (folder / "one-more").stat().st_mode & 0o777 == 0o444
    finally:
        unmount_below(folder)


def test_a_forest_takes_in_others(layout: Layout, tmp_path: Path) -> None:
    first, second = Forest(layout, tmp_path / "a"), Forest(layout, tmp_path / "b")
    contents = [first.add(b"one"), first.add(b"two"), second.add(b"two"), second.add(b"three")]
    for forest in (first, second):
        forest.commit()
    for name in ("a", "b", "a"):
        add_to_forest(tmp_path / name, tmp_path / "both")
    assert forest_names(tmp_path / "both") == {sha256.hex() for sha256 in contents}
    for sha256 in contents:
        assert inode(tmp_path / "both" / forest_path(sha256)) == inode(layout.object(sha256))
    assert forest_names(tmp_path / "nowhere") == set()


def test_a_full_disk_is_said_clearly(tmp_path: Path, as_root: None) -> None:
    from als.store.refused import store_errors

    folder = tmp_path / "fs"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
        layout = Layout(folder / "root")
        with pytest.raises(StoreFull, match="no space left"), store_errors(folder):
            layout.create()
            forest = Forest(layout, folder / "forest")
            for number in range(64):
                forest.add(bytes([number]) * 100_000)
    finally:
        unmount_below(folder)


def test_a_store_of_another_version_is_refused(layout: Layout) -> None:
    (layout.root / "version").write_text("2\n")
    with pytest.raises(StoreError, match="layout version '2'"):
        layout.create()
