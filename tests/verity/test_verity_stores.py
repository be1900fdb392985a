"""Sealing of what is published already, without pulls: flat images, and layers that were lazy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file
from als.imagestore.diffn import FLATTEN, DiffNStore
from als.imagestore.records import PublishedLayer
from als.model.forest import FOREST
from als.mount.table import find_mount, mounts_below
from als.native.verity import measure_path
from als.verity.existing import seal_copy
from als.verity.policy import Mode, Policy
from tests.harness.system import unmount_below
from tests.imagestore.lazyshop import LazyShop, content, ids, shown
from tests.imagestore.lazyshop import image as shop_image
from tests.imagestore.shop import Shop
from tests.lazy.conftest import site, workers
from tests.lazy.faultyregistry import FaultyRegistry
from tests.lazy.site import TIMEOUT, Site, blobs_of
from tests.lazy.test_lazy_layer import FORMATS

__all__ = ["site", "workers"]

pytestmark = pytest.mark.in_vm


def seal(shop: Shop, policy: Policy, layers: Sequence[PublishedLayer]) -> None:
    """As als.service.sealing does it for layers that have a recipe."""
    for layer in layers:
        path = shop.layers.image(layer.diff_id)
        copy = path.with_name("sealed")
        digest = seal_copy(policy, path, shop.layers.forest(layer.diff_id), layer.diff_id.hex, copy)
        copy.rename(path)
        shop.layers.add_verity(layer.diff_id, digest)


def test_flat_images_are_sealed_with_their_layers(sealable: Path) -> None:
    shop = Shop(sealable / "a")
    policy = Policy(Mode.REQUIRE, shop.layout.root)
    layers: list[PublishedLayer] = []
    for number in range(FLATTEN):
        files = {f"{number}": b"%d" % number * 100}
        layers.append(shop.layer(files, layers[-1].chain_id if layers else ""))
    shop.diff_n.publish(layers)
    top = layers[-1].chain_id
    seal(shop, policy, layers)
    store = DiffNStore(shop.layout, shop.layers, policy)
    store.publish(layers)
    flat, digest = store.folder(top) / "flat.erofs", (store.folder(top) / "flat.verity").read_text()
    measured = measure_path(flat)
    assert measured is not None and measured.hex() == digest
    data = flat.read_bytes()
    for name in read_image_file(flat, LAYER).contents():
        each = measure_path(store.folder(top) / "diff1" / FOREST / name.hex())
        assert each is not None and b"\x00\x24\x00\x01" + each in data
    for layer in layers:
        entry = find_mount(store.diff(layer.chain_id))
        assert entry is not None and entry.source.startswith("/proc/self/fd/")
    assert shop.faults(store) == []
    mounted = len(mounts_below(store.root))
    store.publish(layers)
    assert len(mounts_below(store.root)) == mounted
    # As after a boot.
    unmount_below(store.root)
    store.remount()
    assert len(mounts_below(store.root)) == len(layers)
    assert shop.faults(store) == []


def test_the_sealed_image_replaces_the_lazy_one(sealable: Path) -> None:
    shop = Shop(sealable / "a")
    policy = Policy(Mode.PREFER, shop.layout.root)
    lazies = LazyShop(shop)
    [layer] = shop_image(shop, "L")
    shop.composefs.publish([lazies.lazy(layer)])
    before = shown(shop.composefs, ids([layer]), sealable / "before")
    lazies.seal(layer)
    seal(shop, policy, [layer])
    shop.composefs.settle([replace(layer, lazy="")])
    [chain_id] = ids([layer])
    assert shop.composefs.blob(chain_id).samefile(shop.layers.image(layer.diff_id))
    assert measure_path(shop.composefs.blob(chain_id)) == bytes.fromhex(shop.layers.get(layer.diff_id).verity)
    assert shop.faults(shop.composefs) == []
    # A container from before goes on, one that comes now reads sealed files only.
    assert {path.name: path.read_bytes() for path in (sealable / "before" / "merged").iterdir()} == before == content("L")
    assert shown(shop.composefs, ids([layer]), sealable / "after") == content("L")


@pytest.mark.parametrize("flavour", sorted(FORMATS)[:1])
def test_a_lazy_layer_is_sealed_when_it_is_complete(site: Site, flavour: str) -> None:
    sample = FORMATS[flavour]()
    site.sealer = site.sealer_with(Policy(Mode.REQUIRE, site.layout.root))
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        layer.fill()
        layer.content.result(TIMEOUT)
        record = site.sealer.seal(layer)
    image = site.layers.image(record.diff_id)
    measured = measure_path(image)
    assert measured is not None and measured.hex() == record.verity
    data = image.read_bytes()
    for path in (site.layers.forest(record.diff_id) / FOREST).iterdir():
        digest = measure_path(path)
        assert digest is not None and digest in data
    # The lazy folder has the image that its record names; who looked files up in it goes on.
    assert hashlib.sha256(layer.folder.image.read_bytes()).hexdigest() == layer.record.image_sha256
