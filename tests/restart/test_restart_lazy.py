"""The real daemon, kept, under readers of lazy layers."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.blobproxy import BlobProxy
from tests.harness.system import mounts_below
from tests.lazily.conftest import lazy_registry as lazy_registry
from tests.lazily.conftest import proxy as proxy
from tests.lazily.conftest import shop as shop
from tests.lazily.images import contents, layer
from tests.lazily.site import Shop, Site
from tests.lazy.site import noise
from tests.restart.killing import Readers, kill_under_load

KILLS = int(os.environ.get("ALS_KILLS", "10"))
"""More of them with `make soak`."""
DEADLINE = 60.0


@pytest.fixture
def kept_site(as_root: None, module_dir: Path, proxy: BlobProxy) -> Iterator[Site]:
    """A daemon that its keeper restarts."""
    with Site(Path(tempfile.mkdtemp(prefix="k", dir=module_dir)), proxy, keep=True) as site:
        yield site


def test_kills_at_random_moments(kept_site: Site, shop: Shop) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    files = contents(30, 300_000, seed)
    image = shop.image("killed", [layer("zstd:chunked", files)])
    kept_site.look_up(image)
    mount = kept_site.mount_by_chain(image)
    with Readers({mount / name: data for name, data in files.items()}, 4, seed) as readers:
        kill_under_load(kept_site.als, readers, KILLS, seed, DEADLINE)
    print(readers.report)
    assert readers.report.wrong == []
    # What was not looked at yet is found as well, and new containers start.
    again = kept_site.mount_by_chain(image)
    assert {name: (again / name).read_bytes() for name in files} == files


def test_an_upgrade_under_readers(kept_site: Site, shop: Shop) -> None:
    data = noise(20_000_000, 5)
    image = shop.image("upgraded", [layer("estargz", {"d/big": data})])
    kept_site.look_up(image)
    path = kept_site.mount_by_chain(image) / "d/big"
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(lambda: hashlib.sha256(path.read_bytes()).digest())
        before = kept_site.als.serving_pid
        os.kill(kept_site.als.pid, signal.SIGHUP)
        kept_site.als.replaced(before)
        assert reader.result(DEADLINE) == hashlib.sha256(data).digest()


def test_when_the_keeper_ends_nothing_of_it_is_left(kept_site: Site, shop: Shop) -> None:
    files = contents(3, 50_000)
    image = shop.image("ended", [layer("estargz", files)])
    kept_site.look_up(image)
    assert kept_site.als.stop() == 0
    assert [mount for mount in mounts_below(kept_site.als.root) if mount.fstype.startswith("fuse")] == []
    assert list(kept_site.als.run.glob("*.pid")) == []
    # Nothing was lost: a daemon without a keeper goes on with the same layers, and knows that the connection is another one.
    kept_site.als.keep = False
    kept_site.als.start()
    assert len(list(kept_site.als.run.glob("als-fuse-*"))) == 1
    mount = kept_site.mount_by_chain(image)
    assert {name: (mount / name).read_bytes() for name in files} == files
