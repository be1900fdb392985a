"""What a daemon finds that starts where another one, or gc, was killed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from als.config import LAYOUTS, Config
from als.errors import DigestMismatch
from als.mount.unmounting import unmount
from als.service import Service
from als.service.fsck import check
from als.service.lazily import Lazies
from als.service.recovery import recover
from als.service.removal import collect, remove
from als.service.repair import fsck
from als.store.lazyfolders import keys
from tests.formats.tocbuilder import estargz, file, zstd_podman
from tests.harness.policy import ExpectedLogs
from tests.harness.system import unmount_below, wait_until
from tests.lazy.faultyregistry import FaultyRegistry
from tests.lazy.site import Site, blobs_of, noise
from tests.service.lazystore import Keeper, LazyStore

ONE = zstd_podman([file("first", noise(20_000, 1)), file("second", noise(150_000, 2))], 50_000)
TWO = estargz([file("third", noise(30_000, 3)), file("fourth", noise(90_000, 4))], 40_000)
KILLED = 77


@pytest.fixture
def service(tmp_path: Path, as_root: None) -> Iterator[Service]:
    config = Config(root=tmp_path / "a", run=tmp_path / "run", worker_user="65534", layouts=LAYOUTS, background=False)
    try:
        with Service(config) as opened:
            recover(opened)
            yield opened
    finally:
        unmount_below(config.root)


@pytest.fixture
def store(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[LazyStore]:
    with FaultyRegistry(blobs_of(ONE, TWO)) as registry, Site(service.layout.root, service.workers) as site:
        keeper = Keeper(site)
        monkeypatch.setattr(service, "lazies", keeper)
        yield LazyStore(service, keeper, registry)


@contextmanager
def next_daemon(store: LazyStore) -> Iterator[Lazies]:
    """The site's own layers are closed, as by the end of their process."""
    store.site.stop()
    with Lazies(store.service) as lazies:
        store.service.lazies = lazies
        recover(store.service)
        lazies.resume()
        lazies.begin(lambda: None)
        yield lazies


def listed(service: Service) -> set[str]:
    return set(service.composefs.published())


def test_lazy_layers_are_served_again(store: LazyStore) -> None:
    service = store.service
    image, layers = store.pull("img", ONE, TWO)
    # As after a reboot; tests of the image store replace a mount that is still there.
    for chain_id in image.toc_chain:
        unmount(service.composefs.folder(chain_id) / "diff")
    with next_daemon(store) as lazies:
        wait_until(lambda: len(store.mounts()) == 2, "mounts that lead to this daemon")
        assert {layer.key for layer in lazies.layers()} == {layer.key for layer in layers}
        assert fsck(service, deep=True).found == ()


def test_what_was_refused_just_before_the_end(store: LazyStore, expect_log: ExpectedLogs) -> None:
    """It is still listed, and so is what lies on top of it."""
    expect_log("cannot be served any more")
    service = store.service
    image, (one, _) = store.pull("img", ONE, TWO)
    store.site.lazy.refuse(one, DigestMismatch("it is another"))
    assert listed(service) == set(image.toc_chain)
    with next_daemon(store) as lazies:
        wait_until(lambda: not listed(service) and not store.mounts(), "what cannot be served is not listed")
        assert one.key not in {layer.key for layer in lazies.layers()}


@pytest.mark.parametrize("step", ["make_tar_split", "add_to_forest", "sync_file_system", "unmount_lazy"])
def test_settling_goes_on_where_it_stopped(store: LazyStore, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    service = store.service
    image, layers = store.pull("img", ONE, TWO)
    for layer in layers:
        store.seal(layer)

    def killed(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"als.imagestore.composefs.{step}", killed)
        service.composefs.settle([service.layer_of(image, 0)])
    with next_daemon(store):
        folders = [service.layout.lazy / layer.key for layer in layers]
        wait_until(lambda: all((folder / "sealed").exists() for folder in folders), "both are complete")
        wait_until(lambda: listed(service) == {*image.chain, *image.toc_chain}, "they are listed as that")
        assert service.composefs.lazy_chains() == {}
        assert fsck(service, deep=True).found == ()
        assert set(collect(service).lazy) == {layer.key for layer in layers}
        assert fsck(service, deep=True).found == ()


def test_what_is_settled_and_could_not_be_listed_is_listed_later(store: LazyStore) -> None:
    """For want of space, in the same daemon: the next start would publish all images anyway."""
    service = store.service
    image, layers = store.pull("img", ONE, TWO)
    for layer in layers:
        store.seal(layer)
    whole = [service.layer_of(image, index) for index in range(len(layers))]
    for count in range(1, len(whole) + 1):
        service.composefs.settle(whole[:count])
    assert listed(service) == set(image.toc_chain)
    with Lazies(service) as lazies:
        lazies.settle(image)
    assert listed(service) == {*image.chain, *image.toc_chain}
    assert service.composefs.lazy_chains() == {}


def killed_gc(service: Service, step: int) -> subprocess.CompletedProcess[str]:
    where = [str(service.layout.root), str(service.config.run), str(step)]
    return subprocess.run(
        [sys.executable, "-m", "tests.life.killed_gc", *where], capture_output=True, text=True, timeout=60, check=False
    )


def test_gc_that_was_killed_leaves_nothing_for_the_next(store: LazyStore) -> None:
    service = store.service
    store.pull("img", ONE)
    remove(service, "r.io/img:1")
    done = killed_gc(service, -1)
    assert done.returncode == 0, done.stderr
    assert store.things() == {}
    steps = int(done.stdout)
    for step in range(0, steps, max(1, steps // 12)):
        _, (layer,) = store.pull("img", ONE)
        remove(service, "r.io/img:1")
        killed = killed_gc(service, step)
        assert killed.returncode == KILLED, killed.stderr
        # What is listed is whole.
        assert [problem for problem in check(service, deep=True) if problem.kind in ("image store", "lazy layer")] == []
        if listed(service):
            assert keys(service.layout) == [layer.key]
        collect(service)
        assert store.things() == {}, step
        assert store.mounts() == []


def test_a_daemon_that_is_stopped_at_once_takes_nothing_away(store: LazyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    service = store.service
    image, _ = store.pull("img", ONE, TWO)
    covering = threading.Event()
    cover = service.composefs.cover
    daemons: list[Lazies] = []

    def slowly(chain_id: str) -> None:
        covering.set()
        wait_until(lambda: daemons != [] and daemons[0].layers() == [], "its layers are closed")
        cover(chain_id)

    monkeypatch.setattr(service.composefs, "cover", slowly)
    with next_daemon(store) as daemon:
        assert covering.wait(30)
        daemons.append(daemon)
    assert listed(service) == set(image.toc_chain)
