"""Containers of real podmans notice nothing of a daemon that is killed again and again."""

from __future__ import annotations

import itertools
import os
import random
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import CACHE
from tests.harness.als import AlsDaemon
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.podman import Binaries, Podman, Storage
from tests.harness.system import free_port, wait_until
from tests.lazily.conftest import lazy_registry as lazy_registry
from tests.lazily.conftest import proxy as proxy
from tests.lazily.conftest import shop as shop
from tests.lazily.images import contents, layer, payload_bytes, runnable
from tests.lazily.site import QUIET, Shop
from tests.lazy.site import noise
from tests.restart.containers import Containers, Passing, Sample
from tests.restart.killing import kill_under_load

KILLS = int(os.environ.get("ALS_KILLS", "10"))
"""More of them with `make soak`."""
DEADLINE = 120.0
"""Of a read: with two processors that many others use, a daemon may take half a minute to start."""
SETTINGS = {**QUIET, "layouts": ["diffN", "composefs"]}
LARGE = 3_000_000
"""Bytes of a layer's last file, which is none that comes with one before it."""
FLAVOUR = {"trixie": "estargz", "forky": "zstd:chunked"}
"""What each podman that is lazy gets."""


@dataclass(frozen=True)
class Machine:
    """One daemon that is kept, and podmans of three releases that use it."""

    als: AlsDaemon
    podmans: dict[str, Podman]


def _binaries(suite: str) -> Binaries:
    try:
        return binaries_of(suite, CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def machine(as_root: None, module_dir: Path, shop: Shop) -> Iterator[Machine]:
    """podman 5.4 finds lazy layers by the layer store, 5.8 by mirror and image store; 4.3 has sealed ones alone."""
    binaries = {suite: _binaries(suite) for suite in ("bookworm", "trixie", "forky")}
    base = Path(tempfile.mkdtemp(prefix="c", dir=module_dir))
    port = free_port()
    hosts = (shop.proxy.address, shop.registry.address)
    with ExitStack() as stack:
        als = AlsDaemon(base, mirror_port=port, settings=SETTINGS, keep=True)
        podmans = {}
        for suite, programs in binaries.items():
            image_store = als.image_store if suite == "bookworm" else als.composefs_store
            mirrored = port if suite == "forky" else 0
            storage = Storage((als.layer_store,), (image_store,), insecure=hosts, mirror_port=mirrored)
            podmans[suite] = Podman(base / suite[0], storage, programs)
        als.environment.update(podmans["forky"].environment)
        stack.enter_context(als)
        for podman in podmans.values():
            # Ends before the daemon does, and has its mount namespace before there are threads.
            stack.enter_context(podman)("info")
        yield Machine(als, podmans)
        print(als.log_text()[-6000:])


class Images:
    """Makes them; to be used by threads."""

    def __init__(self, shop: Shop, seed: int) -> None:
        self._shop = shop
        self._seeds = itertools.count(seed % 1_000_000 * 1000, 100)
        self._lock = threading.Lock()

    def make(self, flavour: str) -> Sample:
        """One that nobody has seen yet."""
        with self._lock:
            return self._make(flavour)[0]

    @contextmanager
    def held_back(self, flavour: str) -> Iterator[Sample]:
        """One whose files do not come before the end of the context."""
        with self._lock:
            sample, blob, payload = self._make(flavour)
        # Not to the end: what a layer is opened by is asked for with some of what lies before it.
        hold = self._shop.proxy.hold(blob, 0, payload - LARGE // 2)
        try:
            yield sample
        finally:
            hold.open()

    def _make(self, flavour: str) -> tuple[Sample, str, int]:
        """An image, the digest of its layer with files, and where what says so begins in that."""
        seed = next(self._seeds)
        files = {**contents(8, 200_000, seed), "d/large": noise(LARGE, seed + 99)}
        data = layer(flavour, files)
        image = self._shop.image(f"kills/{seed}", [runnable(flavour), data])
        return Sample.of(image.reference, files), image.blobs[1], payload_bytes(data)


def test_kills_under_containers(machine: Machine, shop: Shop) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    images, als = Images(shop, seed), machine.als
    sealed = images.make("estargz")
    als.cli("pull", "-q", sealed.reference)
    containers, passing = Containers(), list[Passing]()
    with ExitStack() as stack:
        for number, (suite, podman) in enumerate(machine.podmans.items()):
            containers.sealed.append(stack.enter_context(containers.steady(podman, "sealed", sealed)))
            fresh, samples = None, [sealed]
            if flavour := FLAVOUR.get(suite):
                fresh = partial(images.make, flavour)
                with images.held_back(flavour) as sample:
                    containers.lazy.append(stack.enter_context(containers.steady(podman, "lazy", sample)))
                    containers.lazy[-1].wait_opened(DEADLINE)
                samples.append(sample)
            passing.append(Passing(podman, samples, fresh, containers.report, seed + number))
        containers.all_read(DEADLINE)
        _show_who_needs_the_daemon(als, containers)
        for each in passing:
            stack.enter_context(each)
        kill_under_load(als, containers, KILLS, seed, DEADLINE)
    print(containers.report, [each.rounds for each in passing])
    assert containers.report.wrong == []
    assert containers.report.slowest < DEADLINE
    assert all(each.rounds for each in passing), "containers came and went"


def _show_who_needs_the_daemon(als: AlsDaemon, containers: Containers) -> None:
    """Without that the test would show nothing: lazy readers wait for the daemon, and sealed ones do not."""
    daemon = als.serving_pid
    os.kill(daemon, signal.SIGSTOP)
    try:
        wait_until(lambda: all(_stopped(task) for task in Path(f"/proc/{daemon}/task").iterdir()), "it stands still")
        # Well before the keeper takes it for one that hangs (lookup_deadline).
        lazy, sealed = containers.read_without_a_daemon(5, DEADLINE)
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert lazy == 0
    assert sealed >= 15
    containers.all_read(DEADLINE)


def _stopped(task: Path) -> bool:
    """Whether a thread runs no more, as proc(5) has its state."""
    return (task / "stat").read_text("ascii").rpartition(")")[2].split()[0] == "T"
