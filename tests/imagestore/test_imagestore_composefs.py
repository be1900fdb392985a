"""The image store for podman 5 and later, as files, and what holds for both layouts."""

from __future__ import annotations

import itertools
import json
import os
import random
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from als.errors import StoreDamaged, StoreFull
from als.imagestore.records import PublishedLayer, by_diff_id, by_toc
from als.imagestore.tree import ImageStore
from als.model.chain import toc_chain_id, toc_chain_ids
from als.model.digest import Digest
from als.model.forest import FOREST
from als.mount.erofs import mount_erofs
from als.mount.features import data_only_lowers, kernel_version
from als.store.layout import TarSplitForm
from tests.harness.system import mounts_below
from tests.imagestore.shop import Shop, in_sight, tree_of

pytestmark = pytest.mark.usefixtures("as_root")


def image(shop: Shop, *contents: bytes, tocs: Sequence[Digest | None] = ()) -> list[PublishedLayer]:
    """An image's layers, lowest first."""
    layers: list[PublishedLayer] = []
    for content, toc in itertools.zip_longest(contents, tocs):
        layers.append(shop.layer(content, layers[-1].chain_id if layers else "", toc=toc))
    return layers


def test_what_a_client_reads(shop: Shop) -> None:
    low, top = image(shop, b"low" * 100, b"top" * 100)
    store = shop.composefs
    store.publish([low, top])
    overlay = shop.layout.image_store / "overlay"
    links = {layer.chain_id: (overlay / layer.chain_id / "link").read_text() for layer in (low, top)}
    assert all(len(link) == 26 for link in links.values()), "as long as the client's own, so that none of is4 is like it"
    assert (overlay / top.chain_id / "lower").read_text() == f"l/{links[low.chain_id]}"
    assert not (overlay / low.chain_id / "lower").exists()
    for layer in (low, top):
        assert (overlay / "l" / links[layer.chain_id]).readlink() == Path(f"../{layer.chain_id}/diff")
        folder = overlay / layer.chain_id
        blob = folder / "composefs-data" / "composefs.blob"
        assert blob.samefile(shop.layers.image(layer.diff_id))
        assert {path.name for path in folder.iterdir()} >= {"empty", "merged", "work", "diff", "link"}
        assert folder.readlink() == Path(f"../chains/{layer.chain_id}")
        assert not any(path.is_symlink() for path in folder.resolve().rglob("*"))
        (name,) = os.listdir(folder / "diff" / FOREST)
        assert (folder / "diff" / FOREST / name).samefile(shop.layout.object(bytes.fromhex(name)))
        tar_split = shop.layout.image_store / "overlay-layers" / f"{layer.chain_id}.tar-split.gz"
        assert stat.S_ISREG(tar_split.lstat().st_mode)
        assert tar_split.samefile(shop.layers.tar_split(layer.diff_id, TarSplitForm.IMAGE))
    assert mounts_below(shop.layout.root) == [], "it works without us, also after a reboot"
    assert list(store.published()) == [low.chain_id, top.chain_id]


def test_overlay_reads_the_object_itself(shop: Shop, tmp_path: Path) -> None:
    """Mounted as podman 5 does it: the images, and after two colons what holds their data."""
    layers = image(shop, b"low" * 100, b"top" * 100, b"low" * 100)
    shop.composefs.publish(layers)
    images: list[str] = []
    for number, layer in enumerate(reversed(layers)):
        point = tmp_path / f"i{number}"
        point.mkdir()
        mount_erofs(shop.composefs.blob(layer.chain_id), point)
        images.append(str(point))
    data = [str(shop.composefs.folder(layer.chain_id) / "diff") for layer in reversed(layers)]
    separator = "::" if data_only_lowers(kernel_version()).ok else ":"
    (tmp_path / "merged").mkdir()
    options = f"lowerdir={':'.join(images)}{separator}{separator.join(data)},metacopy=on,redirect_dir=on"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", tmp_path / "merged"], check=True)
    assert (tmp_path / "merged" / "file").read_bytes() == b"low" * 100
    assert os.listdir(tmp_path / "merged") == ["file"]


def test_a_container_s_root_is_as_the_image_has_it(shop: Shop) -> None:
    layer = shop.layer(b"x" * 100, mode=0o550)
    shop.composefs.publish([layer])
    assert stat.S_IMODE((shop.composefs.folder(layer.chain_id) / "diff").stat().st_mode) == 0o550


def test_owners_are_listed_for_user_namespaces(shop: Shop) -> None:
    """By them podman chooses the size of the namespace of ``--userns=auto``; whiteouts have none."""
    layer = shop.layer(b"x" * 100, gone=["gone"], uid=7000)
    shop.composefs.publish([layer])
    entry = shop.composefs.published()[layer.chain_id]
    assert (entry["uidset"], entry["gidset"]) == ([0, 7000], [0])
    assert PublishedLayer.from_json(entry).info() == layer.info(), "they are no part of the layer store's protocol"


TOC = [Digest.of(b"table of contents %d" % number) for number in range(3)]


def test_layers_with_a_toc_are_found_by_it_as_well(shop: Shop) -> None:
    layers = image(shop, b"a" * 100, b"b" * 100, b"c" * 100, tocs=[TOC[0], None, TOC[2]])
    shop.composefs.publish(layers)
    chain = toc_chain_ids([layer.diff_id for layer in layers], [TOC[0], None, TOC[2]])
    assert chain[0] == toc_chain_id("", TOC[0]), "the first layer's is hashed as well"
    entries = shop.composefs.published()
    assert list(entries) == [*(layer.chain_id for layer in layers), *chain]
    for layer, own, parent in zip(layers, chain, ("", *chain), strict=False):
        owners = {"uidset": [0], "gidset": [0]}
        assert entries[own] == {**layer.to_json(), **owners, "id": own, **({"parent": parent} if parent else {})}
        assert shop.composefs.home(own) == layer.chain_id
        assert (shop.composefs.folder(own) / "link").samefile(shop.composefs.folder(layer.chain_id) / "link")
        assert shop.composefs.tar_split(own).samefile(shop.composefs.tar_split(layer.chain_id))
    assert shop.faults(shop.composefs) == []
    assert by_diff_id(by_toc(layers)) == layers
    shop.composefs.unpublish(chain)
    assert shop.faults(shop.composefs) == []
    assert list(shop.composefs.published()) == [layer.chain_id for layer in layers]


def test_the_first_image_had_no_toc(shop: Shop) -> None:
    """The same layers come again, in an image that says more of them."""
    plain = image(shop, b"a" * 100, b"b" * 100)
    shop.composefs.publish(plain)
    told = image(shop, b"a" * 100, b"b" * 100, tocs=TOC[:2])
    shop.composefs.publish(told)
    assert len(shop.composefs.published()) == 4
    assert shop.faults(shop.composefs) == []


def test_layers_that_have_no_toc_are_listed_once(shop: Shop) -> None:
    layers = image(shop, b"a" * 100, b"b" * 100, tocs=[None, TOC[1]])
    shop.composefs.publish(layers)
    assert list(shop.composefs.published()) == [*(layer.chain_id for layer in layers), by_toc(layers)[1].chain_id]
    assert shop.faults(shop.composefs) == []


@pytest.fixture(params=["diffN", "composefs"])
def store(shop: Shop, request: pytest.FixtureRequest) -> ImageStore:
    return next(store for store in shop.stores if store.layout == request.param)


def test_publishing_again_changes_nothing(shop: Shop, store: ImageStore) -> None:
    layers = image(shop, b"a" * 100, b"b" * 100, tocs=TOC[:2])
    store.publish(layers)
    before = {path: path.lstat().st_mtime_ns for path in store.root.rglob("*") if not path.is_dir()}
    store.publish(layers)
    assert {path: path.lstat().st_mtime_ns for path in store.root.rglob("*") if not path.is_dir()} == before
    assert os.listdir(shop.layout.tmp) == []


def test_whatever_comes_and_goes_the_list_is_whole(shop: Shop, store: ImageStore) -> None:
    """Images sharing lower layers, published and removed in any order: what is listed is whole, and nothing else is there."""
    chance = random.Random(20)
    empty = tree_of(store)
    everything: dict[str, PublishedLayer] = {}
    for _ in range(30):
        if chance.random() < 0.6 or not everything:
            height = chance.randrange(1, 12)
            split = chance.randrange(height + 1)
            contents = [b"shared %d" % n * 50 if n < split else b"own %d" % chance.randrange(4) * 50 for n in range(height)]
            tocs = [chance.choice([None, Digest.of(content)]) for content in contents]
            layers = image(shop, *contents, tocs=tocs)
            store.publish(layers)
        else:
            gone = {chance.choice(sorted(store.published()))}
            size = 0
            while size != len(gone):
                size = len(gone)
                gone |= {chain for chain, entry in store.published().items() if entry.get("parent") in gone}
                gone |= {chain for chain in store.published() if store.home(chain) in gone}
            store.unpublish(gone)
        everything = {chain: PublishedLayer.from_json(entry) for chain, entry in store.published().items()}
        assert shop.faults(store) == []
    store.unpublish(everything.keys())
    assert tree_of(store) == empty


def test_what_was_cut_short_is_made_anew(shop: Shop, store: ImageStore) -> None:
    layers = image(shop, b"a" * 100, b"b" * 100, tocs=TOC[:2])
    store.publish(layers)
    expected = store.list_file.read_bytes()
    # As after a power cut: the list did not reach the disk, and one of the folders only in part.
    store.list_file.write_bytes(b"[]")
    (store.folder(layers[1].chain_id) / "link").unlink()
    assert set(store.unlisted()) == {entry["id"] for entry in json.loads(expected)}
    store.publish(layers)
    assert store.list_file.read_bytes() == expected
    assert shop.faults(store) == []


def test_a_layer_whose_parent_is_missing_is_not_listed(shop: Shop, store: ImageStore) -> None:
    orphan = shop.layer(b"x" * 100, "0" * 64)
    with pytest.raises(StoreDamaged, match="below it is missing"):
        store.publish([orphan])
    assert store.published() == {} and store.unlisted() == []
    assert os.listdir(shop.layout.tmp) == []


def test_what_comes_between_the_disk_and_the_list(shop: Shop, store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = image(shop, b"low" * 100, b"top" * 100)
    events: list[str] = []
    monkeypatch.setattr("als.imagestore.tree.sync_file_system", lambda _: events.append("synced"))

    def refused() -> None:
        raise StoreFull("no space left")

    with pytest.raises(StoreFull):
        store.publish(layers, durable=refused)
    assert store.published() == {} and store.unlisted() == []

    def durable() -> None:
        events.append(f"{len(store.published())} listed")

    events.clear()
    store.publish(layers, durable=durable)
    store.publish(layers, durable=durable)
    assert events == ["synced", "0 listed"], "of what is listed already there is nothing to be said"
    assert shop.faults(store) == []


def test_what_leaves_the_list_is_out_of_sight_and_can_come_back(shop: Shop, store: ImageStore) -> None:
    low, top = image(shop, b"a" * 100, b"b" * 100, tocs=TOC[:2])
    store.publish([low, top])
    before, homes = store.published(), {chain: store.home(chain) for chain in store.published()}
    gone = {chain for chain, entry in before.items() if entry["diff-digest"] == str(top.diff_id)}
    entries = store.unlist(gone)
    assert {entry["id"] for entry in entries} == gone == set(store.unlisted())
    assert in_sight(store) == store.published().keys() == before.keys() - gone
    assert {chain: store.home(chain) for chain in homes} == homes
    assert store.folder(top.chain_id).is_dir()
    # Something else changes in between.
    other = image(shop, b"other" * 100)
    store.publish(other)
    store.relist(entries)
    assert store.published() == {**before, **{layer.chain_id: store.published()[layer.chain_id] for layer in other}}
    assert in_sight(store) == store.published().keys()
    assert shop.faults(store) == []
    # Published anew instead, it is made anew.
    store.unlist(gone)
    store.publish([low, top])
    assert in_sight(store) == store.published().keys() >= before.keys()
    assert shop.faults(store) == []


def test_a_folder_that_a_client_made_in_the_place_of_a_layer_s(shop: Shop, store: ImageStore) -> None:
    low, top = image(shop, b"a" * 100, b"b" * 100)
    store.publish([low, top])
    place = store.overlay / top.chain_id

    def take() -> None:
        place.unlink()
        (place / "diff").mkdir(parents=True)
        (place / "link").write_text("LINKOFTHECLIENT")

    take()
    assert shop.faults(store) == [f"{top.chain_id}: a client has made a layer of its own in its place"]
    store.unpublish([top.chain_id])
    assert store.unlisted() == [] and not place.exists()
    store.publish([low, top])
    assert shop.faults(store) == []
    (aside,) = shop.layout.quarantine.iterdir()
    assert (aside / "link").read_text() == "LINKOFTHECLIENT", "nothing is lost"
    # As als before this left it: not listed any more, but in the way.
    store.unpublish([top.chain_id])
    (place / "diff").mkdir(parents=True)
    store.publish([low, top])
    assert shop.faults(store) == [] and len(list(shop.layout.quarantine.iterdir())) == 2
