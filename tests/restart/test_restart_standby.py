"""The next daemon waits, loaded, while one serves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from als.keeper import protocol
from tests.harness.system import wait_until
from tests.restart.conftest import Kept


@pytest.fixture
def ready(stopped_kept: Kept) -> Kept:
    """A keeper whose daemon serves, and will have one that waits."""
    stopped_kept.standby = True
    stopped_kept.start()
    return stopped_kept


def _gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_it_becomes_the_daemon(ready: Kept) -> None:
    waiting, digest = ready.wait_standby(), ready.add_layer("layer")
    assert waiting != ready.pid
    ready.kill()
    assert ready.pid == waiting
    assert ready.info(digest).exists()
    # And the one after it waits in turn.
    assert ready.wait_standby() not in (waiting, 0)


def test_it_has_the_descriptors_that_it_was_given_and_no_others(ready: Kept) -> None:
    ready.wait_standby()
    ready.kill()
    folder = Path(f"/proc/{ready.pid}/fd")
    opened = {int(path.name): str(path.readlink()) for path in folder.iterdir()}
    assert opened[protocol.FIRST] == "/dev/fuse"
    assert [number for number, what in opened.items() if what == os.devnull and number > protocol.FIRST] == []


def test_a_new_version_is_not_one_that_waited(ready: Kept) -> None:
    waiting = ready.wait_standby()
    assert ready.process is not None
    ready.process.send_signal(signal.SIGHUP)
    ready.wait_ready()
    assert ready.pid != waiting
    assert _gone(waiting)


def test_without_it_the_daemon_is_started_as_ever(ready: Kept) -> None:
    waiting, digest = ready.wait_standby(), ready.add_layer("layer")
    os.kill(waiting, signal.SIGKILL)
    wait_until(lambda: _gone(waiting), "the keeper has seen it")
    ready.kill()
    assert ready.pid != waiting
    assert ready.info(digest).exists()
    assert "waits to become the daemon has ended" in ready.log()


def test_it_ends_with_the_keeper(ready: Kept) -> None:
    waiting = ready.wait_standby()
    assert ready.stop() == 0
    assert _gone(waiting)


def test_it_ends_when_the_keeper_is_killed(ready: Kept) -> None:
    waiting, daemon = ready.wait_standby(), ready.pid
    assert ready.process is not None
    ready.process.kill()
    assert ready.ended(-signal.SIGKILL)
    wait_until(lambda: _gone(waiting), "it has ended")
    os.kill(daemon, signal.SIGTERM)
    wait_until(lambda: _gone(daemon), "so has the daemon")
