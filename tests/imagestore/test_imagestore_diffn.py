"""The image store for podman 4, as files: what is there after publication, and after its end."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from als.errors import LockTimeout, StoreDamaged
from als.imagestore.diffn import FLATTEN, DiffNStore
from als.imagestore.links import PlainLinks
from als.imagestore.lock import StorageLock
from als.imagestore.records import PublishedLayer, parse_entries
from als.model.digest import Digest
from als.store.layers import Layers
from als.store.layout import Layout, TarSplitForm
from tests.harness.system import unmount_below
from tests.imagestore.shop import Shop, tree_of

pytestmark = pytest.mark.usefixtures("as_root")


def test_what_a_client_reads(shop: Shop) -> None:
    low = shop.layer(b"low" * 100)
    top = shop.layer(b"top" * 100, low.chain_id)
    shop.diff_n.publish([low, top])
    is4 = shop.layout.image_store_4
    assert json.loads((is4 / "overlay-layers" / "layers.json").read_bytes())[1] == {
        "id": top.chain_id,
        "parent": low.chain_id,
        "created": "2023-11-14T22:13:20Z",
        "compressed-diff-digest": str(top.blob),
        "compressed-size": 512,
        "diff-digest": str(top.diff_id),
        "diff-size": 10_240,
        "compression": 2,
    }
    for lock in ("overlay-layers/layers.lock", "overlay-images/images.lock"):
        assert (is4 / lock).stat().st_size == 64
    assert (is4 / "overlay-images" / "images.json").read_bytes() == b"[]"
    overlay = is4 / "overlay"
    links = {layer.chain_id: (overlay / layer.chain_id / "link").read_text() for layer in (low, top)}
    assert (overlay / top.chain_id / "lower").read_text() == f"l/{links[low.chain_id]}"
    assert not (overlay / low.chain_id / "lower").exists()
    for layer in (low, top):
        assert (overlay / "l" / links[layer.chain_id]).readlink() == Path(f"../{layer.chain_id}/diff")
        tar_split = is4 / "overlay-layers" / f"{layer.chain_id}.tar-split.gz"
        assert stat.S_ISREG(tar_split.lstat().st_mode)
        assert tar_split.samefile(shop.layers.tar_split(layer.diff_id, TarSplitForm.FOREST))


def test_overlay_reads_the_object_itself(shop: Shop, tmp_path: Path) -> None:
    """The lowerdirs as podman 4 names them: each ``<lower>`` and ``<lower>/../diff1``."""
    low = shop.layer(b"low" * 100)
    top = shop.layer(b"top" * 100, low.chain_id)
    shop.diff_n.publish([low, top])
    overlay = shop.layout.image_store_4 / "overlay"
    lowers = [overlay / "l" / (overlay / layer.chain_id / "link").read_text() for layer in (top, low)]
    lowerdir = ":".join(f"{lower}:{lower}/../diff1" for lower in lowers)
    assert not (lowers[0] / "../diff2").exists()
    (tmp_path / "merged").mkdir()
    subprocess.run(
        ["mount", "-t", "overlay", "-o", f"lowerdir={lowerdir},metacopy=on", "none", tmp_path / "merged"], check=True
    )
    assert (tmp_path / "merged" / "file").read_bytes() == b"top" * 100
    assert os.listdir(tmp_path / "merged") == ["file"]


def test_publishing_again_changes_nothing(shop: Shop) -> None:
    layer = shop.layer(b"x" * 100)
    shop.diff_n.publish([layer])
    is4 = shop.layout.image_store_4
    before = {path: path.lstat().st_mtime_ns for path in is4.rglob("*") if not path.is_dir()}
    shop.diff_n.publish([layer])
    assert {path: path.lstat().st_mtime_ns for path in is4.rglob("*") if not path.is_dir()} == before


def test_a_tar_split_file_that_leads_nowhere_is_replaced(shop: Shop) -> None:
    """As als once had them: symlinks to what its daemon made when it was read."""
    layer = shop.layer(b"x" * 100)
    shop.diff_n.publish([layer])
    path = shop.diff_n.tar_split(layer.chain_id)
    made = path.read_bytes()
    path.unlink()
    path.symlink_to("/nowhere")
    assert shop.faults(shop.diff_n) == [f"{layer.chain_id}: its tar-split file is missing"]
    shop.diff_n.publish([layer])
    assert not path.is_symlink()
    assert path.read_bytes() == made
    assert shop.faults(shop.diff_n) == []


def test_every_change_makes_clients_read_again(shop: Shop) -> None:
    lock = shop.layout.image_store_4 / "overlay-layers" / "layers.lock"
    seen = {lock.read_bytes()}
    layer = shop.layer(b"x" * 100)
    shop.diff_n.publish([layer])
    seen.add(lock.read_bytes())
    shop.diff_n.unpublish([layer.chain_id])
    seen.add(lock.read_bytes())
    assert len(seen) == 3


def test_nothing_is_left_of_an_unpublished_layer(shop: Shop) -> None:
    before = tree_of(shop.diff_n)
    layer = shop.layer(b"x" * 100)
    shop.diff_n.publish([layer])
    shop.diff_n.unpublish([layer.chain_id])
    assert tree_of(shop.diff_n) == before
    assert shop.diff_n.published() == {}
    shop.diff_n.publish([layer])
    assert (shop.diff_n.diff(layer.chain_id) / "file").exists()


def lowerdirs(shop: Shop, chain: str) -> list[str]:
    """What podman 4 would mount for a container on that layer, by the files that it reads."""
    overlay = shop.layout.image_store_4 / "overlay"
    lower = overlay / chain / "lower"
    links = ["l/" + (overlay / chain / "link").read_text(), *(lower.read_text().split(":") if lower.exists() else [])]
    found = []
    for link in links:
        found += [f"{overlay}/{link}", f"{overlay}/{link}/../diff1"]
    assert all(Path(path).is_dir() for path in found)
    return found


def contents_of(number: int) -> dict[str, bytes]:
    """A file of the layer's own, one that every layer has, one that every third has (and the first has empty)."""
    return {f"own-{number}": b"%d" % number * 100, "last": b"last %d" % number * 100, f"flip-{number % 3}": b"x" * number * 99}


def test_a_tall_image_needs_few_directories(shop: Shop, tmp_path: Path) -> None:
    """Of any height, it shows what plain overlay would; podman puts its own layers on top of any."""
    layers: list[PublishedLayer] = []
    for number in range(3 * FLATTEN + 2):
        contents = contents_of(number)
        gone = [f"own-{number - 1}"] if number % 5 == 4 else []
        layers.append(shop.layer(contents, layers[-1].chain_id if layers else "", gone))
    shop.diff_n.publish(layers)
    shown: dict[str, bytes] = {}
    for number, layer in enumerate(layers):
        found = lowerdirs(shop, layer.chain_id)
        assert len(found) <= 2 * FLATTEN
        assert len(set(found)) == len(found)
        merged = tmp_path / f"merged-{number}"
        merged.mkdir()
        subprocess.run(["mount", "-t", "overlay", "-o", f"lowerdir={':'.join(found)},metacopy=on", "none", merged], check=True)
        shown |= contents_of(number)
        if number % 5 == 4:
            del shown[f"own-{number - 1}"]
        assert {path.name: path.read_bytes() for path in merged.iterdir()} == shown
    flat = shop.diff_n.diff(layers[2 * FLATTEN - 1].chain_id)
    assert sorted(os.listdir(flat)) == sorted([".als", *(name for name in os.listdir(tmp_path / f"merged-{2 * FLATTEN - 1}"))])


def test_a_layer_twice_in_an_image_is_no_directory_twice(shop: Shop, tmp_path: Path) -> None:
    low = shop.layer(b"low" * 100)
    middle = shop.layer(b"middle" * 100, low.chain_id)
    again = shop.layer(b"low" * 100, middle.chain_id)
    shop.diff_n.publish([low, middle, again])
    found = lowerdirs(shop, again.chain_id)
    (tmp_path / "merged").mkdir()
    options = f"lowerdir={':'.join(found)},metacopy=on"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", tmp_path / "merged"], check=True)
    assert (tmp_path / "merged" / "file").read_bytes() == b"low" * 100


def test_links_that_collide_grow(shop: Shop) -> None:
    """Chains whose short names are equal still get names of their own."""
    low = shop.layer(b"x" * 100)
    shop.diff_n.publish([low])
    first = (shop.layout.image_store_4 / "overlay" / low.chain_id / "link").read_text()
    shop.diff_n.unpublish([low.chain_id])
    squatter = shop.layout.image_store_4 / "overlay" / "l" / first
    squatter.symlink_to("../somebody-else/diff")
    shop.diff_n.publish([low])
    second = (shop.layout.image_store_4 / "overlay" / low.chain_id / "link").read_text()
    assert second.startswith(first)
    assert len(second) == len(first) + 1


def test_a_layer_whose_parent_is_missing_is_not_listed(shop: Shop) -> None:
    orphan = shop.layer(b"x" * 100, "0" * 64)
    with pytest.raises(StoreDamaged, match="below it is missing"):
        shop.diff_n.publish([orphan])
    assert shop.diff_n.published() == {}


def test_how_many_layers_fit(tmp_path: Path) -> None:
    default = DiffNStore(Layout(Path("/var/lib/als")), Layers(Layout(Path("/var/lib/als"))))
    assert default.fits(127)
    long = Layout(Path("/" + "x" * 250))
    assert DiffNStore(long, Layers(long)).fits(5)
    assert not DiffNStore(long, Layers(long)).fits(8)


def test_the_lock_is_the_one_that_clients_take(tmp_path: Path) -> None:
    path = tmp_path / "layers.lock"
    lock = StorageLock(path)
    lock.create()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_SH)\n"
    hold += "print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"held\n"
        with pytest.raises(LockTimeout, match="container engine"), lock.held(0.05):
            pytest.fail("both held it")
        client.kill()
    with lock.held(5.0), path.open("r+") as other:
        script = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        assert subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=False).returncode != 0
        assert not fcntl.fcntl(other, fcntl.F_GETFD) & ~fcntl.FD_CLOEXEC


@pytest.mark.parametrize("data", [b"{}", b"[1]", b'[{"id": 1}]', b"[", b"\xff\xfe"])
def test_a_damaged_list_is_named(data: bytes) -> None:
    with pytest.raises(StoreDamaged, match=r"layers\.json"):
        parse_entries(data, "layers.json")


def test_plain_links_lie_below_a_mount(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    layout.create()
    digest = Digest.of(b"blob")
    try:
        subprocess.run(["mount", "-t", "tmpfs", "none", layout.mount_point], check=True)
        PlainLinks(layout).place("host/name:tag", [(digest, Path("/somewhere/diff"))])
        PlainLinks(layout).place("host/name:tag", [(digest, Path("/somewhere/diff"))])
        assert os.listdir(layout.mount_point) == []
    finally:
        unmount_below(tmp_path)
    link = layout.mount_point / "aG9zdC9uYW1lOnRhZw==" / str(digest) / "diff"
    assert stat.S_ISLNK(link.lstat().st_mode)
    assert link.readlink() == Path("/somewhere/diff")
