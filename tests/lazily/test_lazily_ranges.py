"""What is fetched: what somebody reads, a little more, and nothing twice, whatever happens to the daemon."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from als.lazy.link import DEFAULT_TUNING
from tests.harness.system import wait_until
from tests.lazily.conftest import Open
from tests.lazily.images import FLAVOURS, contents, layer, toc_bytes
from tests.lazily.site import QUIET, SETTINGS, Shop, Site
from tests.lazy.site import noise

BOTH = pytest.mark.parametrize("flavour", FLAVOURS)


@BOTH
def test_only_what_is_read_comes(site: Site, shop: Shop, flavour: str) -> None:
    files = contents(150, 80_000)
    sample = layer(flavour, files)
    image = shop.image(f"ranges-{flavour.replace(':', '-')}", [sample])
    site.look_up(image)
    root = site.mount_by_chain(image)
    told = site.proxy.asked_bytes(*image.blobs)
    assert told <= toc_bytes(sample) + (128 << 10), "the layer is shown once its table of contents is here"
    for folder, _, names in os.walk(root):
        for name in names:
            Path(folder, name).stat()
    assert site.proxy.asked_bytes(*image.blobs) == told, "names and attributes need nothing of the blob"
    data = files["d/0070"]
    assert (root / "d/0070").read_bytes() == data
    came = site.proxy.asked_bytes(*image.blobs) - told
    assert len(data) <= came <= len(data) + DEFAULT_TUNING.extend_max + (200 << 10)
    begin = sample.blob.index(_compressed_beginning(sample.blob, data))
    asked = site.proxy.of(*image.blobs)[-1]
    assert asked.start <= begin < asked.end


def _compressed_beginning(blob: bytes, data: bytes) -> bytes:
    """Noise is stored as it is."""
    return next(data[at : at + 64] for at in range(0, 4096, 16) if data[at : at + 64] in blob)


@pytest.mark.parametrize(
    ("flavour", "how"), [("estargz", signal.SIGTERM), ("estargz", signal.SIGKILL), ("zstd:chunked", signal.SIGKILL)]
)
def test_a_download_goes_on_where_it_stopped(opened: Open, shop: Shop, flavour: str, how: signal.Signals) -> None:
    files = {**contents(60, 80_000), "d/large": noise(3_000_000, 77)}
    sample = layer(flavour, files)
    image = shop.image(f"restart-{flavour.replace(':', '-')}-{how.name.lower()}", [sample])
    site = opened(SETTINGS)
    proxy = site.proxy
    # Not up to the table of contents, before which a reader may ask for some bytes more.
    gate = proxy.hold(image.blobs[0], len(sample.blob) * 6 // 10, len(sample.blob) * 9 // 10)
    site.look_up(image)
    wait_until(lambda: site.lazy_files() == 60 and site.part_bytes() > 400_000, "the small files, and a part of the large one")
    site.als.stop(how)
    before = proxy.sent_bytes(*image.blobs)
    assert before < len(sample.blob) * 7 // 10
    # What was on its way is lost with its connection.
    gate.cut()
    site.als.start()
    # At once: whoever runs a container does not wait for what the daemon looks through.
    for mount in (site.mount_by_chain, site.mount_by_lookup):
        root = mount(image)
        for name in ("d/0000", "d/0059", "d/large"):
            assert (root / name).read_bytes() == files[name]
    site.wait_sealed(image)
    total = proxy.sent_bytes(*image.blobs)
    print("asked for:", [(each.start, each.end, each.sent) for each in proxy.of(*image.blobs)])
    print(f"{flavour} {how.name}: {before} before, {total} in all, {total / len(sample.blob):.3f} of the blob")
    assert total < 1.15 * len(sample.blob)
    with site.mounts():
        root = site.mount_by_chain(image)
        assert all((root / name).read_bytes() == data for name, data in files.items())


@pytest.mark.parametrize(("flavour", "how"), [("estargz", signal.SIGTERM), ("zstd:chunked", signal.SIGTERM)])
def test_a_daemon_that_seals_can_be_ended(opened: Open, shop: Shop, flavour: str, how: signal.Signals) -> None:
    """All files are here; what is beside them, for the DiffID alone, does not come. The next daemon makes an end of it."""
    files = contents(6, 60_000)
    sample = layer(flavour, files)
    image = shop.image(f"ended-{flavour.replace(':', '-')}-{how.name.lower()}", [sample])
    site = opened(QUIET)
    site.look_up(image)
    root = site.mount_by_chain(image)
    # The header of the first folder; and the tar-split, which is read only now.
    gates = [site.proxy.hold(image.blobs[0], 0, 1), site.proxy.hold(image.blobs[0], len(sample.blob) - toc_bytes(sample))]
    count = len(site.proxy.of(*image.blobs))
    assert all((root / name).read_bytes() == data for name, data in files.items())
    wait_until(lambda: any(each.sent == 0 for each in site.proxy.of(*image.blobs)[count:]), "the rest is asked for")
    begun = time.monotonic()
    site.als.stop(how)
    assert time.monotonic() - begun < 10
    for gate in gates:
        gate.cut()
    site.als.start()
    site.wait_sealed(image)
    with site.mounts():
        root = site.mount_by_chain(image)
        assert all((root / name).read_bytes() == data for name, data in files.items())


@BOTH
def test_an_update_brings_what_changed(opened: Open, shop: Shop, flavour: str) -> None:
    """One file in twenty has changed, here and there in the layer."""
    name = flavour.replace(":", "-")
    files = contents(1600, 5_000)
    changed = {path: noise(len(files[path]), 5000 + number) for number, path in enumerate(list(files)[7::20])}
    old, new = layer(flavour, files), layer(flavour, {**files, **changed})
    first, second = shop.image(f"update-{name}-1", [old]), shop.image(f"update-{name}-2", [new])
    site = opened(SETTINGS)
    site.look_up(first)
    site.wait_sealed(first)
    before = site.proxy.sent_bytes(*first.blobs)
    site.look_up(second)
    # What the DiffID of eStargz is made of lies beside the contents of all files, so it is not fetched unasked.
    native = site.als.composefs_store / "overlay" / second.toc_chain[-1] / "native"
    wait_until(lambda: native.exists() or site.is_sealed(second), "all files are here and native")
    assert site.is_sealed(second) == (flavour != "estargz")
    assert site.proxy.sent_bytes(*first.blobs) == before
    total = site.proxy.sent_bytes(*second.blobs)
    changes, toc = sum(map(len, changed.values())), toc_bytes(new)
    wanted = changes + toc
    print(f"{flavour}: changed {changes} + TOC {toc}, blob {len(new.blob)}; here after {total}: {total / wanted:.2f} times")
    assert total <= 1.1 * wanted
    with site.mounts():
        root = site.mount_by_chain(second)
        assert all((root / path).read_bytes() == data for path, data in {**files, **changed}.items())
    site.als.cli("wait", second.reference)
    assert site.is_sealed(second)
    assert not native.exists()
