"""The keeper: what it does when the daemon ends, hangs or never begins, and when it is told to end."""

from __future__ import annotations

import os
import signal

import pytest

from tests.fuse.conftest import Daemon
from tests.harness.system import mounts_below, run, wait_until
from tests.restart.conftest import KEY, Kept


def test_when_it_ends_nothing_is_mounted(kept: Kept) -> None:
    daemon = kept.pid
    assert kept.stop() == 0
    assert mounts_below(kept.mountpoint.parent) == []
    with pytest.raises(ProcessLookupError):
        os.kill(daemon, 0)
    assert list(kept.folder.glob("keeper.pid")) == []


def test_files_that_are_open_do_not_keep_it_from_ending(kept: Kept) -> None:
    path = kept.add_lazy(KEY, b"content", gated="")
    file = os.open(path, os.O_RDONLY)
    try:
        assert kept.stop() == 0
        assert mounts_below(kept.mountpoint.parent) == []
    finally:
        with pytest.raises(OSError):
            os.close(file)  # The kernel reports that nobody is there to be told.


def test_a_daemon_that_hangs_is_replaced(stopped_kept: Kept) -> None:
    stopped_kept.watchdog = 3.0
    stopped_kept.start()
    digest = stopped_kept.add_layer("layer")
    os.kill(stopped_kept.pid, signal.SIGSTOP)
    # Answered by the next one.
    assert stopped_kept.info(digest).exists()
    assert "does not answer: killed" in stopped_kept.log()


def test_what_never_begins_is_not_started_again(stopped_kept: Kept) -> None:
    process = stopped_kept.spawn("--no-such-option")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 2
    assert stopped_kept.log().count("usage:") == 1


def test_a_daemon_that_dies_again_and_again_is_not_waited_for(kept: Kept) -> None:
    (kept.folder / "lazy-gate").unlink()
    layer = kept.layer(kept.add_layer("layer"))
    os.kill(kept.pid, signal.SIGKILL)
    wait_until(lambda: mounts_below(kept.mountpoint.parent) == [], "what is mounted is taken away", 60)
    assert not layer.exists()
    assert "podman pulls without als" in kept.log()
    # It is tried on.
    os.mkfifo(kept.folder / "lazy-gate")
    kept.wait_ready()
    assert (layer / "info").exists()


def test_unmounted_by_somebody_else_both_end(kept: Kept) -> None:
    run("umount", kept.mountpoint)
    assert kept.ended(0)
    assert mounts_below(kept.mountpoint.parent) == []


def test_a_daemon_whose_keeper_is_gone_cleans_up_alone(kept: Kept) -> None:
    daemon = kept.pid
    assert kept.process is not None
    kept.process.kill()
    assert kept.ended(-signal.SIGKILL)
    digest = kept.add_layer("layer")
    assert kept.info(digest).exists()
    os.kill(daemon, signal.SIGTERM)
    wait_until(lambda: mounts_below(kept.mountpoint.parent) == [], "it has unmounted", 30)


def test_a_plain_daemon_takes_over_from_none(kept: Kept) -> None:
    second = Daemon(kept.folder, kept.mountpoint).spawn()
    assert second.wait(60) == 1
    assert second.stdout is not None
    second.stdout.close()
    assert "another als serves there" in kept.log()
    assert kept.info(kept.add_layer("layer")).exists()
