"""The daemon's life: start, stop, death, a second one, and what it keeps in memory."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fuse.conftest import Daemon
from tests.harness.system import Mount, mounts_below, run, wait_until


def mount_of(daemon: Daemon) -> list[Mount]:
    return mounts_below(daemon.mountpoint.parent)


def test_the_mount_and_its_options(daemon: Daemon) -> None:
    (mount,) = mount_of(daemon)
    assert (mount.fstype, mount.source) == ("fuse.als", "als")
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(mount.options.split(","))
    assert "allow_other" not in mount.options


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_uncovers_what_lies_below(stopped_daemon: Daemon, number: signal.Signals) -> None:
    daemon = stopped_daemon
    digest = daemon.add_layer("layer")
    layer = daemon.layer(digest)
    layer.mkdir(parents=True)
    (layer / "diff").symlink_to(daemon.behind(digest) / "diff")
    daemon.start()
    assert (layer / "info").exists()
    assert daemon.stop(number) == 0
    assert mount_of(daemon) == []
    assert os.listdir(layer) == ["diff"]
    assert (layer / "diff" / "hello").read_text() == "layer"


def test_who_still_waits_when_it_stops_is_told_to_go_on_alone(daemon: Daemon) -> None:
    digest = daemon.add_layer("layer", gated="")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(daemon.info(digest).exists)
        wait_until(lambda: len(daemon.calls("lookup")) == 1, "the lookup has begun")
        assert daemon.stop() == 0
        assert answer.result(10) is False
    assert mount_of(daemon) == []


def test_it_stops_while_a_file_is_open(daemon: Daemon) -> None:
    path = daemon.layer(daemon.add_layer("layer")) / "blob"
    file = os.open(path, os.O_RDONLY)
    try:
        assert daemon.stop() == 0
        assert mount_of(daemon) == []
    finally:
        with pytest.raises(OSError):
            os.close(file)  # The kernel reports that nobody is there to be told.


def test_a_dead_mount_is_replaced_and_inode_numbers_stay(daemon: Daemon) -> None:
    layer = daemon.layer(daemon.add_layer("layer"))
    names = [layer, layer / "info", layer / "blob", layer.parent, daemon.mountpoint]
    before = [path.stat().st_ino for path in names]
    daemon.stop(signal.SIGKILL)
    assert len(mount_of(daemon)) == 1
    with pytest.raises(OSError):
        os.listdir(layer)
    daemon.start()
    assert [path.stat().st_ino for path in names] == before
    assert len(mount_of(daemon)) == 1


def test_dead_mounts_on_top_of_each_other_are_all_removed(daemon: Daemon) -> None:
    run("mount", "--make-private", "--bind", daemon.mountpoint, daemon.mountpoint)
    daemon.stop(signal.SIGKILL)
    assert len(mount_of(daemon)) == 2
    daemon.start()
    assert len(mount_of(daemon)) == 1


def test_a_second_one_at_the_same_place_refuses(daemon: Daemon) -> None:
    second = daemon.spawn()
    assert second.wait(60) == 1
    assert second.stdout is not None
    assert second.stdout.read() == b""
    second.stdout.close()
    assert "StoreError" in daemon.log()
    assert "another als serves there" in daemon.log()
    assert daemon.info(daemon.add_layer("layer")).exists()


def test_a_mount_point_below_a_symlink(stopped_daemon: Daemon) -> None:
    daemon = stopped_daemon
    real = daemon.folder / "real"
    real.mkdir()
    daemon.mountpoint.parent.joinpath("link").symlink_to(real)
    daemon.mountpoint = daemon.mountpoint.parent / "link" / "store"
    daemon.start()
    assert [mount.point for mount in mounts_below(real)] == [real / "store"]
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert daemon.stop() == 0
    assert mounts_below(real) == []


def test_unmounted_by_somebody_else_it_ends(daemon: Daemon) -> None:
    run("umount", daemon.mountpoint)
    assert daemon.process is not None
    assert daemon.process.wait(20) == 0
    assert "unmounted by somebody else" in daemon.log()


def test_what_the_kernel_forgets_is_dropped(daemon: Daemon) -> None:
    for number in range(300):
        daemon.info(daemon.add_layer(number)).stat()
    assert os.statvfs(daemon.mountpoint).f_files >= 600

    def nearly_empty() -> bool:
        Path("/proc/sys/vm/drop_caches").write_text("2")
        return os.statvfs(daemon.mountpoint).f_files < 10

    wait_until(nearly_empty, "the nodes are gone")
