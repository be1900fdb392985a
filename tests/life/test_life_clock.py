"""The clock is set, by hours or years: no lease ends by that, none lasts for ever, and a daemon does not mind.

It is set for single processes: see :mod:`tests.harness.clock`.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from als.service import Service
from als.service.removal import collect
from tests.harness.blobproxy import BlobProxy
from tests.harness.clock import Clock
from tests.harness.lease import let_an_hour_pass
from tests.harness.ocilayout import Layout
from tests.harness.registry import RegistryServer
from tests.harness.system import run, wait_until
from tests.lazily.images import contents, layer
from tests.lazily.site import QUIET, Shop, Site
from tests.lazy.site import noise
from tests.life.stores import image, pull

HOUR, DAY = 3600, 86400
OFFSETS = (2 * HOUR, -400 * DAY)
FILES = contents(8, 40_000)


@pytest.fixture(scope="module")
def clock(module_dir: Path) -> Clock:
    return Clock(module_dir / "clock")


PULL = """
import sys
from pathlib import Path
from als.config import LAYOUTS, Config
from als.model.reference import parse_reference
from als.service import Service
with Service(Config(root=Path(sys.argv[1]), run=Path(sys.argv[2]), worker_user="65534", layouts=LAYOUTS)) as service:
    service.pull(parse_reference(sys.argv[3]))
"""
"""As for a client."""


def gc(service: Service, environment: Mapping[str, str]) -> dict[str, list[str]]:
    where = ("--root", service.layout.root, "--run", service.config.run)
    found: dict[str, list[str]] = json.loads(run(sys.executable, "-m", "als", *where, "gc", "--json", env=environment).stdout)
    return found


@pytest.mark.parametrize("offset", OFFSETS)
def test_gc_when_the_clock_was_set(service: Service, layout: Layout, clock: Clock, offset: int) -> None:
    """A client pulls two images, one of them through lookups alone; it has written down neither when the clock is set."""
    clock.set(offset)
    told = float(run(sys.executable, "-c", "import time; print(time.time())", env=clock.environment).stdout)
    assert abs(told - time.time()) > HOUR, "the clock is another"
    kept = pull(service, image(layout, "kept", "a", "b"))
    taken = pull(service, image(layout, "taken", "c"))
    (reference,) = (ref.reference for ref in service.images.refs() if ref.digest == taken.digest)
    service.images.forget(reference)
    service.uses.change(reference, str(taken.manifest.layers[0].digest), +1)
    found = gc(service, clock.environment)
    assert (found["images"], found["layers"], found["chains"]) == ([], [], [])
    assert {each.digest for each in service.images.all()} == {kept.digest, taken.digest}
    assert [use.count for use in service.uses.all()] == [1]
    let_an_hour_pass(service.layout.root)
    assert len(gc(service, clock.environment)["images"]) == 2


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_pull_before_the_clock_was_set_right(service: Service, layout: Layout, clock: Clock, offset: int) -> None:
    reference = image(layout, "one", "a")
    where = (service.layout.root, service.config.run)
    clock.set(offset)
    run(sys.executable, "-c", PULL, *where, reference, env=clock.environment)
    assert collect(service).images == ()
    let_an_hour_pass(service.layout.root)
    assert len(collect(service).images) == 1


def test_a_daemon_whose_clock_jumps(as_root: None, clock: Clock, module_dir: Path) -> None:
    """Between two reads of a layer that is not here yet, and while the rest is fetched."""
    clock.set(0)
    with ExitStack() as stack:
        registry = stack.enter_context(RegistryServer(module_dir / "registry"))
        proxy = stack.enter_context(BlobProxy(registry.address))
        shop = Shop(module_dir / "oci", registry, proxy)
        pulled = shop.image("clock", [layer("zstd:chunked", FILES), layer("estargz", {"d/other": noise(90_000, 7)})])
        site = stack.enter_context(Site(module_dir / "site", proxy, QUIET, environment=clock.environment))
        site.look_up(pulled)
        root = site.mount_by_chain(pulled)
        for (name, data), offset in zip(FILES.items(), itertools.cycle(OFFSETS), strict=False):
            clock.set(offset)
            assert (root / name).read_bytes() == data, offset
        hold = proxy.hold(pulled.blobs[1])
        filling = stack.enter_context(ThreadPoolExecutor(1)).submit(site.als.cli, "wait", "-q", pulled.reference)
        stack.callback(hold.open)
        wait_until(lambda: hold.waiting > 0, "somebody waits for the rest")
        clock.set(30 * DAY)
        hold.open()
        filling.result(60)
        site.wait_sealed(pulled)
        assert {name: (root / name).read_bytes() for name in FILES} == FILES
        assert "ERROR" not in site.als.log_text()
