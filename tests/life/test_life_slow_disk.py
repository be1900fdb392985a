"""A disk that does not answer: who reads does not wait for it, lookups end in time, and all is well when it answers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import faults
from tests.harness.blobproxy import BlobProxy
from tests.harness.registry import RegistryServer
from tests.harness.system import wait_until
from tests.lazily.images import contents, layer
from tests.lazily.site import QUIET, Lazy, Shop, Site

FILES = {name: contents(5, 40_000, seed) for seed, name in enumerate(("filled", "read", "new"))}
LOOKUP_SECONDS = 2.0
SYNCS = ("fsync", "fdatasync", "syncfs", "sync_file_range")


@pytest.fixture
def images(site: Site, shop: Shop) -> dict[str, Lazy]:
    return {name: shop.image(f"slow-{name}", [layer("zstd:chunked", files)]) for name, files in FILES.items()}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with RegistryServer(tmp_path / "registry") as registry, BlobProxy(registry.address) as proxy:
        yield Shop(tmp_path / "oci", registry, proxy)


@pytest.fixture
def site(as_root: None, module_dir: Path, shop: Shop) -> Iterator[Site]:
    with Site(module_dir / "s", shop.proxy, {**QUIET, "lookup_deadline": LOOKUP_SECONDS}) as found:
        yield found


def test_who_reads_does_not_wait_for_the_disk(site: Site, images: dict[str, Lazy]) -> None:
    filled, read, new = (images[name] for name in FILES)
    for image in (filled, read):
        site.look_up(image)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        with faults.hanging(site.als.serving_pid, SYNCS):
            filling = pool.submit(site.als.cli, "wait", "-q", filled.reference)
            wait_until(lambda: site.lazy_files() == len(FILES["filled"]), "all files are here, and not synced")
            with site.mounts():
                for image, name in ((read, "read"), (filled, "filled")):
                    root = site.mount_by_chain(image)
                    assert {path: (root / path).read_bytes() for path in FILES[name]} == FILES[name]
            with pytest.raises(FileNotFoundError):
                site.look_up(new)
            assert site.als.serving()
            assert not filling.done() and not site.is_sealed(filled), "the disk has not answered yet"
        filling.result(60)
    for image, name in ((filled, "filled"), (read, "read"), (new, "new")):
        site.look_up(image)
        site.als.cli("wait", "-q", image.reference)
        with site.mounts():
            root = site.mount_by_chain(image)
            assert {path: (root / path).read_bytes() for path in FILES[name]} == FILES[name]
    site.als.cli("fsck", "--deep")
