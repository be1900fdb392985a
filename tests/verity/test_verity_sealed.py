"""Sealed layers on a kernel with fs-verity: what a pull seals, what the kernel then refuses, what als refuses to mount."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from als.config import LAYOUTS, Config
from als.errors import StoreDamaged
from als.model.digest import Digest
from als.model.forest import FOREST
from als.model.reference import parse_reference
from als.mount.table import find_mount, mounts_below
from als.native.verity import measure_path, seal_files
from als.service import Service
from als.service.recovery import recover
from als.service.trust import State, verify_image
from als.store.images import ImageRecord
from als.store.objects import copy_object
from tests.harness.ocilayout import Layout, TarBuilder
from tests.harness.policy import ExpectedLogs
from tests.harness.system import unmount_below
from tests.verity.conftest import WarmWorkers

pytestmark = pytest.mark.in_vm

Opener = Callable[[str], Service]

BIG = os.urandom(1_000_000)
MEDIUM = b"m" * 5000


@pytest.fixture
def opened(sealable: Path, warm_workers: WarmWorkers) -> Opener:
    """Opens the store of a test with one of the settings of `verity`."""

    def open_it(verity: str) -> Service:
        root, run = sealable / "a", sealable / "run"
        config = Config(root=root, run=run, worker_user="65534", lookup_deadline=120.0, layouts=LAYOUTS, verity=verity)
        return Service(config, workers=warm_workers)

    return open_it


def base() -> bytes:
    return TarBuilder().directory("etc").file("etc/small", b"tiny").file("etc/medium", MEDIUM).file("big", BIG, 0o755).build()


def made(folder: Path, *tars: bytes) -> Layout:
    layout = Layout(folder / "images")
    layout.add_image("a", [layout.add_layer(tar) for tar in tars])
    return layout


def pull(service: Service, layout: Layout, *, asked: bool = False) -> ImageRecord:
    return service.pull(parse_reference(layout.name("a")), asked=asked)


def told_by_tool(path: Path) -> str:
    done = subprocess.run(["fsverity", "measure", path], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()[0].removeprefix("sha256:")


def assert_sealed(service: Service, diff_id: Digest) -> None:
    record = service.layers.get(diff_id)
    image = service.layers.image(diff_id)
    assert record.verity == told_by_tool(image)
    objects = list((service.layers.forest(diff_id) / FOREST).iterdir())
    assert objects
    data = image.read_bytes()
    for path in objects:
        digest = measure_path(path)
        assert digest is not None
        # fs/overlayfs/overlayfs.h, struct ovl_metacopy: version, length, flags, algorithm, digest.
        assert b"\x00\x24\x00\x01" + digest in data
    assert json.loads((image.parent / "layer.json").read_text())["version"] == 2


@contextmanager
def container(service: Service, chain_id: str, folder: Path) -> Iterator[Path]:
    """An overlay as podman 4 mounts it, with verity=require."""
    diff = service.diff_n.diff(chain_id)
    target = folder / "merged"
    target.mkdir(exist_ok=True)
    options = f"ro,metacopy=on,redirect_dir=on,verity=require,lowerdir={diff}:{diff.parent}/diff1"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", target], check=True, timeout=60)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True, timeout=60)


def test_a_pull_seals_objects_and_images(opened: Opener, sealable: Path) -> None:
    layout = made(sealable, base(), TarBuilder().file("etc/more", b"more" * 100).build())
    with opened("require") as service:
        image = pull(service, layout)
        for diff_id in image.config.diff_ids:
            assert_sealed(service, diff_id)
        for chain_id, diff_id in zip(image.chain, image.config.diff_ids, strict=True):
            assert told_by_tool(service.composefs.blob(chain_id)) == service.layers.get(diff_id).verity
            entry = find_mount(service.diff_n.diff(chain_id))
            assert entry is not None and entry.source.startswith("/proc/self/fd/")
        mounted = len(mounts_below(service.diff_n.root))
        # What is mounted is recognised again: nothing is mounted twice.
        recover(service)
        pull(service, layout)
        assert len(mounts_below(service.diff_n.root)) == mounted
        with container(service, image.chain[0], sealable) as merged:
            assert (merged / "big").read_bytes() == BIG
            assert (merged / "etc/medium").read_bytes() == MEDIUM
            assert (merged / "etc/small").read_bytes() == b"tiny"
        # After a reboot nothing is mounted.
        unmount_below(service.layout.root)
        service.diff_n.remount()
        assert len(mounts_below(service.diff_n.root)) == mounted


@pytest.mark.parametrize("setting", ["prefer", "require"])
def test_what_is_here_unsealed_is_sealed_when_it_is_asked_for(opened: Opener, sealable: Path, setting: str) -> None:
    layout = made(sealable, base())
    with opened("off") as service:
        image = pull(service, layout)
        [diff_id], [chain_id] = image.config.diff_ids, image.chain
        assert service.layers.get(diff_id).verity == ""
        files = [service.layers.image(diff_id), *(service.layers.forest(diff_id) / FOREST).iterdir()]
        assert [measure_path(path) for path in files] == [None, None, None]
        with container(service, chain_id, sealable) as merged, pytest.raises(OSError, match="Input/output error"):
            (merged / "big").read_bytes()
    with opened(setting) as service:
        pull(service, layout, asked=True)
        assert_sealed(service, diff_id)
        assert service.composefs.blob(chain_id).samefile(service.layers.image(diff_id))
        with container(service, chain_id, sealable) as merged:
            assert (merged / "big").read_bytes() == BIG
        mounted = len(mounts_below(service.diff_n.root))
        pull(service, layout, asked=True)
        assert len(mounts_below(service.diff_n.root)) == mounted
        assert [link for link in verify_image(service, image) if link.state is not State.OK] == []
        service.diff_n.unpublish(image.chain)
        assert not mounts_below(service.diff_n.root)


def test_prefer_leaves_it_unsealed_when_nobody_asks(opened: Opener, sealable: Path, expect_log: ExpectedLogs) -> None:
    expect_log("it is not sealed, and verity")
    layout = made(sealable, base())
    with opened("off") as service:
        [diff_id] = pull(service, layout).config.diff_ids
    with opened("prefer") as service:
        recover(service)
        assert service.layers.get(diff_id).verity == ""
    with opened("require") as service:
        recover(service)
        assert_sealed(service, diff_id)


def test_what_has_changed_is_not_sealed(opened: Opener, sealable: Path) -> None:
    layout = made(sealable, base())
    with opened("off") as service:
        [diff_id] = pull(service, layout).config.diff_ids
        name = sorted(service.layers.objects(diff_id))[0]
    path = service.layout.object(name)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with opened("require") as service, pytest.raises(StoreDamaged, match="has changed"):
        pull(service, layout)
    assert service.layers.get(diff_id).verity == ""


def test_another_layers_object_is_read_before_it_is_believed(opened: Opener, sealable: Path) -> None:
    with opened("off") as service:
        pull(service, made(sealable, base()))
        path = next(path for path in (service.layout.objects).rglob("*") if path.is_file() and path.stat().st_size == len(BIG))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    other = TarBuilder(mtime=1).file("same", BIG).build()
    with opened("require") as service, pytest.raises(StoreDamaged, match="another content"):
        pull(service, made(sealable, other))


def swapped(image: Path, by: Callable[[Path], None]) -> None:
    copy = image.with_name("swapped")
    copy.write_bytes(image.read_bytes())
    by(copy)
    copy.rename(image)


def changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-4000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("sealed_again", [False, True])
def test_an_image_that_was_replaced_is_not_mounted(
    opened: Opener, sealable: Path, sealed_again: bool, expect_log: ExpectedLogs
) -> None:
    expect_log("cannot be mounted")
    with opened("require") as service:
        image = pull(service, made(sealable, base()))
        unmount_below(service.layout.root)
        path = service.layers.image(image.config.diff_ids[0])

        def by(copy: Path) -> None:
            changed(copy)
            if sealed_again:
                seal_files([str(copy)])

        swapped(path, by)
        service.diff_n.remount()
        assert not mounts_below(service.diff_n.root)
        what = "has the fs-verity digest" if sealed_again else "has no fs-verity any more"
        with pytest.raises(StoreDamaged, match=what):
            service.publish(image)


def test_prefer_serves_a_store_that_was_copied(opened: Opener, sealable: Path) -> None:
    with opened("prefer") as service:
        image = pull(service, made(sealable, base()))
        unmount_below(service.layout.root)
        swapped(service.layers.image(image.config.diff_ids[0]), lambda path: None)
        service.diff_n.remount()
        assert (service.diff_n.diff(image.chain[0]) / "etc/small").read_bytes() == b"tiny"


def test_two_layers_with_the_same_file_are_sealed_side_by_side(opened: Opener, sealable: Path) -> None:
    tars = [TarBuilder(mtime=n).file("shared", BIG).file(f"own{n}", b"%d" % n * 200).build() for n in range(3)]
    with opened("require") as service:
        image = pull(service, made(sealable, *tars))
        for diff_id in image.config.diff_ids:
            assert_sealed(service, diff_id)


def test_a_copy_of_a_sealed_object_is_sealed(sealable: Path) -> None:
    """It is made where an inode takes no further hardlink (tests/store has that)."""
    path = sealable / "object"
    path.write_bytes(MEDIUM)
    seal_files([str(path)])
    copy_object(path, sealable / "copy")
    assert (sealable / "copy").stat().st_ino != path.stat().st_ino
    assert measure_path(sealable / "copy") == measure_path(path)
