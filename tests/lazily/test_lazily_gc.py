"""``als gc`` and ``als fsck`` beside the daemon that serves the lazy layers."""

from __future__ import annotations

import json

from tests.harness.system import mounts_below, wait_until
from tests.lazily.conftest import Open
from tests.lazily.images import contents, layer
from tests.lazily.site import SETTINGS, Lazy, Shop, Site
from tests.lazy.site import noise

FILES = contents(20, 30_000)


def image(shop: Shop, name: str) -> Lazy:
    return shop.image(f"gc-{name}", [layer("zstd:chunked", FILES), layer("estargz", {"d/other": noise(90_000, 7)})])


def gc(site: Site) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(site.als.cli("gc", "--json").stdout)
    return found


def kept(site: Site) -> list[str]:
    return [path.name for path in (site.als.root / "lazy").iterdir()]


def test_a_container_keeps_what_it_reads_and_the_next_pull_begins_anew(site: Site, shop: Shop) -> None:
    pulled = image(shop, "mounted")
    with site.mounts():
        by_lookup, by_chain = site.mount_by_lookup(pulled), site.mount_by_chain(pulled)
        assert (by_lookup / "d/0003").read_bytes() == FILES["d/0003"]
        site.als.cli("fsck", "--deep")
        site.als.cli("rm", pulled.reference)
        assert gc(site)["lazy"] == []
        assert set(site.listed()) == set(pulled.toc_chain), "as long as somebody has them mounted"
        assert (by_chain / "d/0004").read_bytes() == FILES["d/0004"]
        assert (by_lookup / "d/0005").read_bytes() == FILES["d/0005"]
    assert len(gc(site)["lazy"]) == 2
    assert kept(site) == []
    assert site.listed() == {}
    assert {mount.point for mount in mounts_below(site.als.root)} == {site.als.root, site.als.store}
    # At once: the daemon has not looked round yet.
    again = site.mount_by_lookup(pulled)
    assert {name: (again / name).read_bytes() for name in FILES} == FILES
    assert set(site.listed()) == set(pulled.toc_chain)


def test_what_was_removed_is_filled_again(opened: Open, shop: Shop) -> None:
    """By the same daemon, under the same keys."""
    site = opened(SETTINGS)
    pulled = image(shop, "again")
    for _ in range(2):
        site.look_up(pulled)
        site.wait_sealed(pulled)
        site.als.cli("rm", pulled.reference)
        gc(site)
        assert kept(site) == []
        assert not list((site.als.root / "layers").iterdir())


def test_a_sealed_layer_s_folder_stays_for_those_who_came_before(opened: Open, shop: Shop) -> None:
    site = opened(SETTINGS)
    pulled = image(shop, "sealed")
    gates = [site.proxy.hold(blob, 0, 20_000) for blob in pulled.blobs]
    site.look_up(pulled)
    with site.mounts():
        early = site.mount_by_chain(pulled)
        assert len(list((site.als.root / "image-store" / "chains").glob("*/lazy"))) == 2
        for gate in gates:
            gate.open()
        site.wait_sealed(pulled)
        wait_until(lambda: len(list((site.als.root / "lazy").glob("*/sealed"))) == 2, "both are marked as sealed")
        assert gc(site)["lazy"] == []
        assert {name: (early / name).read_bytes() for name in FILES} == FILES
    assert len(gc(site)["lazy"]) == 2
    assert kept(site) == []
    late = site.mount_by_chain(pulled)
    assert {name: (late / name).read_bytes() for name in FILES} == FILES
