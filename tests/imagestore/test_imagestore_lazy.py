"""Layers that are listed before all of them is here, and what becomes of their entries, folders and mounts."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from als.imagestore.records import PublishedLayer, by_toc, is_lazy
from als.model.chain import toc_chain_id
from als.model.forest import FOREST
from als.mount.lazy import SOURCE, unmount_lazy
from als.mount.table import find_mount, read_mounts
from als.store import lazyfolders
from tests.harness.system import mounts_below, unmount_below
from tests.imagestore.lazyshop import LazyShop, content, ids, image, mounted, shown
from tests.imagestore.shop import Shop, tree_of

pytestmark = pytest.mark.usefixtures("as_root")

SHAPES = ["L", "CL", "LC", "LL", "CLC", "LCL", ".L", "L.", "CL.L"]
"""Lazy layers, complete ones with a table of contents, and complete ones without."""
KILLED = 77


@pytest.fixture
def lazies(shop: Shop) -> Iterator[LazyShop]:
    yield LazyShop(shop)
    unmount_below(shop.layout.root)


def publish(lazies: LazyShop, shape: str) -> tuple[list[PublishedLayer], list[PublishedLayer]]:
    """Publish an image of this shape: its layers as they will be, and as they are."""
    whole = image(lazies.shop, shape)
    now = [lazies.lazy(layer) if each == "L" else layer for each, layer in zip(shape, whole, strict=True)]
    lazies.shop.composefs.publish(now)
    return whole, now


def is_covered(shop: Shop, chain_id: str) -> bool:
    mount = find_mount(shop.composefs.folder(chain_id) / "diff")
    return mount is not None and (mount.fstype, mount.source) == ("overlay", SOURCE)


def test_what_is_listed_of_a_lazy_layer(lazies: LazyShop) -> None:
    shop, store = lazies.shop, lazies.shop.composefs
    (layer,), (now,) = publish(lazies, "L")
    assert layer.toc is not None
    chain_id = toc_chain_id("", layer.toc)
    entry = store.published()[chain_id]
    assert entry == {
        "id": chain_id,
        "created": now.to_json()["created"],
        "diff-size": -1,
        "compression": 2,
        "toc-digest": str(layer.toc),
        "flags": {"expected-layer-diffid": str(layer.diff_id)},
    }
    assert is_lazy(entry)
    assert replace(PublishedLayer.from_json(entry), lazy=now.lazy, blob_size=now.blob_size) == by_toc([now])[0]
    assert list(store.published()) == [chain_id], "nobody has seen yet that it is the layer of its DiffID"
    assert store.lazy_chains() == {chain_id: now.lazy}
    assert store.blob(chain_id).samefile(lazies.folder(layer) / "layer.erofs")
    assert (store.folder(chain_id) / "lazy").read_text() == now.lazy
    assert not store.tar_split(chain_id).exists()
    assert is_covered(shop, chain_id)
    assert lazyfolders.chains_of(lazies.folder(layer)) == {chain_id}
    assert store.forest(chain_id) is None, "nobody must walk through what is mounted there"
    assert shop.faults(store) == []
    assert shop.diff_n.published() == {}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_container_reads_what_is_here_and_what_is_not(lazies: LazyShop, shape: str, tmp_path: Path) -> None:
    whole, now = publish(lazies, shape)
    for layer in now:
        if layer.lazy:
            lazies.arrive(layer, 1)
    shop = lazies.shop
    assert shop.composefs.published().keys() >= shop.composefs.ids_of(now) >= {ids(whole)[-1]}
    assert set(ids(whole)) <= shop.composefs.published().keys()
    assert shown(shop.composefs, ids(whole), tmp_path / "c") == content(shape)
    assert shop.faults(shop.composefs) == []
    # The other image store has the complete layers below the lowest lazy one.
    shop.diff_n.publish(now)
    plain = [layer.chain_id for layer in itertools.takewhile(lambda layer: not layer.lazy, now)]
    assert list(shop.diff_n.published()) == plain
    assert shop.diff_n.ids_of(now) == set(plain)


@pytest.mark.parametrize("from_top", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_complete_layer_is_settled(lazies: LazyShop, shape: str, from_top: bool, tmp_path: Path) -> None:
    shop, store = lazies.shop, lazies.shop.composefs
    whole, now = publish(lazies, shape)
    assert shown(shop.composefs, ids(whole), tmp_path / "before") == content(shape)
    lazy = [number for number, layer in enumerate(now) if layer.lazy]
    for number in reversed(lazy) if from_top else lazy:
        lazies.seal(whole[number])
        now[number] = whole[number]
        chain_id = ids(whole)[number]
        store.settle([replace(layer, lazy="") for layer in whole[: number + 1]])
        assert store.lazy_key(chain_id) is None
        assert not is_covered(shop, chain_id)
        entry = store.published()[chain_id]
        assert entry["diff-digest"] == str(whole[number].diff_id)
        assert entry["uidset"] == [0]
        assert "flags" not in entry
        below = store.folder(chain_id) / "diff" / FOREST
        assert set(os.listdir(below)) == set(os.listdir(shop.layers.forest(whole[number].diff_id) / FOREST))
        assert all(path.samefile(shop.layout.object(bytes.fromhex(path.name))) for path in below.iterdir())
        assert store.tar_split(chain_id).is_file()
        assert shop.faults(store) == []
    assert mounts_below(shop.layout.root) == []
    assert {path.name: path.read_bytes() for path in (tmp_path / "before" / "merged").iterdir()} == content(shape)
    # Nothing of the lazy layers is needed by those who come now.
    for number in lazy:
        lazies.folder(whole[number]).rename(tmp_path / f"gone-{number}")
    assert shown(shop.composefs, ids(whole), tmp_path / "after") == content(shape)
    # The plain chains, for others; they have folders of their own.
    store.publish(whole)
    assert set(store.published()) == {*ids(whole), *(layer.chain_id for layer in whole)}
    assert shop.faults(store) == []
    store.settle(whole)
    assert shop.faults(store) == []


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_left_of_what_is_unpublished(lazies: LazyShop, shape: str) -> None:
    shop, store = lazies.shop, lazies.shop.composefs
    before = tree_of(store)
    _, now = publish(lazies, shape)
    assert len(mounts_below(shop.layout.root)) == shape.count("L")
    store.unpublish(list(store.published()))
    assert mounts_below(shop.layout.root) == []
    assert tree_of(store) == before
    assert store.unlisted() == []
    # The lazy layers themselves are not the image store's.
    assert all((shop.layout.lazy / layer.lazy / "layer.erofs").exists() for layer in now if layer.lazy)


def test_a_running_container_survives_that_its_chain_goes(lazies: LazyShop, tmp_path: Path) -> None:
    shop, store = lazies.shop, lazies.shop.composefs
    whole, _ = publish(lazies, "LL")
    root = mounted(shop.composefs, ids(whole), tmp_path / "c")
    lazies.arrive(whole[1], 2)
    store.unpublish(ids(whole))
    # None of them was looked up before.
    assert {path.name: path.read_bytes() for path in root.iterdir()} == content("LL")


def test_a_daemon_that_died_left_its_mount(lazies: LazyShop, tmp_path: Path) -> None:
    shop, store = lazies.shop, lazies.shop.composefs
    whole, _ = publish(lazies, "CL")
    chain_id = ids(whole)[1]
    rest = shop.layout.lazy_files / lazies.key(whole[1])
    shutil.copytree(rest, tmp_path / "new")
    rest.rename(tmp_path / "old")
    (tmp_path / "new").rename(rest)
    (rest / FOREST / "mark").touch()
    mark = store.folder(chain_id) / "diff" / FOREST / "mark"
    assert not mark.exists()
    store.cover(chain_id)
    assert mark.exists()
    before = len(mounts_below(shop.layout.root))
    assert before == 2, "over it: a container that starts meanwhile must not find the folder bare"
    store.cover(whole[0].chain_id)
    store.cover("0" * 64)
    assert len(mounts_below(shop.layout.root)) == before, "what is complete is not covered, nor what is not there"
    # Without a face that could serve it nothing is missing; where there is one, it is said.
    unmount_lazy(store.folder(chain_id) / "diff")
    assert not mounts_below(shop.layout.root)
    assert not store.is_uncovered(chain_id, read_mounts())
    subprocess.run(["mount", "--bind", shop.layout.mount_point, shop.layout.mount_point], check=True)
    assert store.is_uncovered(chain_id, read_mounts())
    assert not store.is_uncovered(whole[0].chain_id, read_mounts())
    store.cover(chain_id)
    assert not store.is_uncovered(chain_id, read_mounts())
    assert shown(shop.composefs, ids(whole), tmp_path / "c") == content("CL")


def test_damage_is_found(lazies: LazyShop) -> None:
    shop, store = lazies.shop, lazies.shop.composefs
    whole, _ = publish(lazies, "LL")
    low, top = ids(whole)
    blob = store.blob(top)
    data = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(data)
    assert shop.faults(store) == [], "a copy, where there are too many links"
    blob.write_bytes(store.blob(low).read_bytes())
    assert shop.faults(store) == [f"{top}: its EROFS image is not that of its lazy layer"]
    blob.write_bytes(data)
    for number in (0, 1):
        lazies.seal(whole[number])
        store.settle(whole[: number + 1])
    assert shop.faults(store) == []
    forest = store.folder(top) / "diff" / FOREST
    (forest / os.listdir(forest)[0]).unlink()
    assert shop.faults(store) == [f"{top}: its own forest lacks files"]


def test_a_layer_that_somebody_else_had_pulled_whole_meanwhile(lazies: LazyShop) -> None:
    """The lazy layer's image is not the same file then; stargz-snapshotter's tables round times, for instance."""
    shop, store = lazies.shop, lazies.shop.composefs
    (layer,), _ = publish(lazies, "L")
    lazies.seal(layer)
    other = shop.layer({f"0-{file}": f"L 0 {file}".encode() * 100 for file in range(3)}, uid=7)
    image_file = shop.layers.image(layer.diff_id)
    image_file.unlink()
    image_file.write_bytes(shop.layers.image(other.diff_id).read_bytes())
    store.settle([layer])
    assert shop.faults(store) == []
    store.publish([layer])
    assert shop.faults(store) == []
    # By its DiffID it must be the layer's own image.
    blob = store.blob(layer.chain_id)
    blob.unlink()
    blob.write_bytes((lazies.folder(layer) / "layer.erofs").read_bytes())
    assert shop.faults(store) == [f"{layer.chain_id}: its EROFS image is another layer's"]


@pytest.mark.parametrize("arrived", [0, 1])
def test_a_layer_that_came_whole_before_its_lazy_files_did(lazies: LazyShop, arrived: int, tmp_path: Path) -> None:
    """As after a kill: the next daemon pulls it whole while the lazy one stands there with nothing."""
    shop, store = lazies.shop, lazies.shop.composefs
    whole, _ = publish(lazies, "CL")
    lazies.seal(whole[1], arrived)
    store.settle(whole)
    assert store.lazy_chains() == {}
    assert shop.faults(store) == []
    assert shown(store, ids(whole), tmp_path / "after") == content("CL")


def test_a_layer_that_came_whole_with_other_names(lazies: LazyShop, tmp_path: Path) -> None:
    """A file without a checksum in the table of contents has another name in the lazy layer than in the sealed one."""
    shop, store = lazies.shop, lazies.shop.composefs
    (layer,), _ = publish(lazies, "L")
    renamed = shop.layer({f"0-{file}": f"renamed {file}".encode() * 100 for file in range(3)})
    for path in (lazies.folder(layer) / "layer.erofs", store.blob(ids([layer])[0])):
        path.unlink()
        path.write_bytes(shop.layers.image(renamed.diff_id).read_bytes())
    lazies.seal(layer, 0)
    store.settle([layer])
    assert shop.faults(store) == []
    assert shown(store, ids([layer]), tmp_path / "after") == content("L")


# -- cut short


def settle_until(root: Path, layers: list[PublishedLayer], step: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.imagestore.killed_settle", str(root), str(step)],
        input=json.dumps([layer.to_json() for layer in layers]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_settling_that_was_cut_short_is_done_again(lazies: LazyShop, tmp_path: Path) -> None:
    shop, store = lazies.shop, lazies.shop.composefs
    names = ["CL", "LC", "LL"]
    # The count of steps is the same for any image: find it with one, then stop at each with others.
    (alone,), _ = publish(lazies, "L")
    lazies.seal(alone)
    done = settle_until(shop.layout.root, [alone], -1)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps >= 10
    for step in range(steps):
        shape = names[step % len(names)]
        whole = image(shop, shape + "." * (step // len(names) + 1))
        number = shape.index("L")
        now = [lazies.lazy(layer) if at == number else layer for at, layer in enumerate(whole)]
        store.publish(now)
        chain_id = ids(whole)[number]
        lazies.seal(whole[number])
        killed = settle_until(shop.layout.root, whole[: number + 1], step)
        assert killed.returncode == KILLED, (step, killed.stderr)
        listed = store.published()[chain_id]
        # A client that comes now can mount it, whatever of it is listed.
        assert store.blob(chain_id).exists()
        expected = content(shape + "." * (step // len(names) + 1))
        assert shown(shop.composefs, ids(whole), tmp_path / f"{step}-now") == expected
        assert is_lazy(listed) or store.tar_split(chain_id).is_file()
        # The next daemon: cover, then settle again.
        for each, _ in store.lazy_chains().items():
            store.cover(each)
        assert shown(shop.composefs, ids(whole), tmp_path / f"{step}-covered") == expected
        store.settle(whole[: number + 1])
        assert store.lazy_chains() == {}
        assert not is_lazy(store.published()[chain_id])
        assert find_mount(store.folder(chain_id) / "diff") is None
        lazies.folder(whole[number]).rename(tmp_path / f"{step}-gone")
        assert shown(shop.composefs, ids(whole), tmp_path / f"{step}-after") == expected
        assert shop.faults(store) == [], step


@pytest.mark.parametrize("torn", [bytes(64), b"", b"0" * 64])
def test_what_the_power_cut_short_is_not_believed(lazies: LazyShop, torn: bytes) -> None:
    """Of an attempt that was not listed yet nothing had to be on the disk."""
    store = lazies.shop.composefs
    whole = image(lazies.shop, "L")
    now = [lazies.lazy(whole[0])]
    left = store.root / "chains" / ids(whole)[0]
    left.mkdir()
    (left / "lazy").write_bytes(torn)
    (store.overlay / left.name).symlink_to(f"../state/{left.name}")
    assert store.lazy_key(left.name) is None
    store.publish(now)
    assert store.lazy_key(left.name) == now[0].lazy
    assert lazies.shop.faults(store) == []


@pytest.mark.parametrize("shape", ["L", "CLC"])
def test_a_lazy_layer_that_is_out_of_sight_is_still_known(lazies: LazyShop, shape: str) -> None:
    publish(lazies, shape)
    store = lazies.shop.composefs
    lazy = store.lazy_chains()
    assert len(lazy) == 1
    (chain_id,) = lazy
    entries = store.unlist(list(store.published()))
    assert store.lazy_chains() == {}
    assert store.lazy_key(chain_id) == lazy[chain_id] and store.forest(chain_id) is None
    assert is_covered(lazies.shop, chain_id)
    store.relist(entries)
    assert store.lazy_chains() == lazy and lazies.shop.faults(store) == []
    store.unpublish(list(store.published()))
    assert not is_covered(lazies.shop, chain_id) and store.unlisted() == []
