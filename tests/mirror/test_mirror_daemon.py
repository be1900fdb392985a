"""``als serve`` with its mirror: it comes and goes with the daemon, and is no condition of it."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from tests.harness.als import AlsDaemon
from tests.harness.system import free_port
from tests.mirror.asking import Asker


def test_it_comes_and_goes_with_the_daemon(as_root: None, tmp_path: Path) -> None:
    port = free_port()
    daemon = AlsDaemon(tmp_path, mirror_port=port)
    with daemon:
        got = Asker(port, "").raw("/v2/")
        assert (got.status, got.headers["docker-distribution-api-version"]) == (200, "registry/2.0")
        assert f"registry mirror at 127.0.0.1:{port}" in daemon.log_text()
        with socket.create_connection(("127.0.0.1", port)):
            assert daemon.stop(signal.SIGTERM) == 0, "also while somebody is connected"
        daemon.start()
        assert Asker(port, "").raw("/v2/").status == 200
    assert "Traceback" not in daemon.log_text()


def test_a_port_that_is_taken_keeps_no_daemon_from_starting(as_root: None, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with AlsDaemon(tmp_path, mirror_port=port) as daemon:
            assert daemon.serving()
            assert f"no registry mirror: 127.0.0.1:{port}: cannot listen" in daemon.log_text()


def test_none_is_asked_for(as_root: None, tmp_path: Path) -> None:
    with AlsDaemon(tmp_path) as daemon:
        assert "registry mirror" not in daemon.log_text()
