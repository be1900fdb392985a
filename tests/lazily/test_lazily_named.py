"""A daemon that is killed when an image has its name and is not listed yet: the next one lists it, without any network."""

from __future__ import annotations

import signal

from als.imagestore.composefs import ComposefsStore
from als.store.layers import Layers
from als.store.layout import Layout
from tests.lazily.images import contents, layer
from tests.lazily.site import Shop, Site

FILES = [contents(2, 10_000, 1), contents(3, 300_000, 2)]


def test_what_has_a_name_is_listed_by_the_next_daemon(site: Site, shop: Shop) -> None:
    image = shop.image("named", [layer("zstd:chunked", FILES[0]), layer("estargz", FILES[1])])
    site.look_up(image)
    site.als.stop(signal.SIGKILL)
    # What was done between the name and the list, and the list.
    layout = Layout(site.als.root)
    store = ComposefsStore(layout, Layers(layout))
    store.unpublish(list(store.published()))
    assert site.listed() == {} and len(list(layout.refs.glob("*.json"))) == 1
    site.proxy.stop()
    try:
        site.als.start()
    finally:
        site.proxy.start()
    assert set(site.listed()) == set(image.toc_chain)
    assert site.als.json("fsck", "--deep")["found"] == []
    with site.mounts():
        root = site.mount_by_chain(image)
        assert {path.relative_to(root).as_posix(): path.read_bytes() for path in (root / "d").iterdir()} == FILES[0] | FILES[1]
