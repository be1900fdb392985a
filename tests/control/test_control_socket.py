"""The socket's life: who may connect, what a hostile client can do, and what is left when the daemon ends."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from als import __version__
from als.config import Config
from als.control.client import daemon, portable
from als.control.server import Control
from als.control.wire import NAME, PROTOCOL, settings
from als.errors import ConfigError
from als.service import Service
from tests.control.conftest import connect
from tests.harness.policy import ExpectedLogs

_CHILD = """
import os, socket, sys
if len(sys.argv) > 2:
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.settimeout(10)
sys.exit(1 if connection.recv(1) else 0)
"""
"""Connects to the socket; succeeds if nothing was said to it."""


def control_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("control")]


def test_it_is_root_s_alone_and_gone_afterwards(service: Service, config: Config) -> None:
    path = config.run / NAME
    with Control(service):
        status = path.stat()
        assert (stat.S_ISSOCK(status.st_mode), stat.S_IMODE(status.st_mode), status.st_uid) == (True, 0o600, os.geteuid())
        connection, channel = connect(config)
        hello = channel.receive(5)
        assert hello == {"protocol": PROTOCOL, "version": __version__, "settings": settings(config)}
        begin = time.monotonic()
    assert time.monotonic() - begin < 5, "a client that says nothing holds nobody up"
    assert channel.receive(5) is None
    connection.close()
    assert not path.exists()
    assert control_threads() == []


def test_a_dead_daemon_s_socket_is_replaced(service: Service, config: Config) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(config.run / NAME))
    with daemon(config) as found:
        assert found is None
    with Control(service), daemon(config) as found:
        assert found is not None
    assert [name for name in os.listdir(config.run) if name.startswith(f".{NAME}")] == []


def test_one_daemon_for_a_run_folder(service: Service, control: Control, config: Config) -> None:
    with pytest.raises(ConfigError, match="another als"), Control(service):
        pass
    with daemon(config) as found:
        assert found is not None, "the first one still has its socket"


def test_a_run_folder_with_a_long_name(config: Config, as_root: None, tmp_path: Path) -> None:
    long = replace(config, run=tmp_path / ("x" * 100) / "run")
    with Service(long) as service, Control(service), daemon(long) as found:
        assert found is not None


def test_another_user_is_sent_away(control: Control, config: Config, module_dir: Path, expect_log: ExpectedLogs) -> None:
    expect_log("user 65534 is not served")
    # As if somebody had opened all doors; the kernel still says who it is.
    path = config.run / NAME
    path.chmod(0o666)
    for folder in path.parents:
        folder.chmod(folder.stat().st_mode | 0o011)
    subprocess.run([sys.executable, "-c", _CHILD, str(path), "65534"], check=True, timeout=30)
    with daemon(config) as found:
        assert found is not None


@pytest.mark.parametrize("namespace", ["--mount", "--net"])
def test_who_sees_another_machine_does_his_own_work(control: Control, config: Config, namespace: str) -> None:
    command = ["unshare", namespace, sys.executable, "-c", _CHILD, str(config.run / NAME)]
    subprocess.run(command, check=True, timeout=30)


def test_a_listener_of_another_user_is_told_nothing(config: Config, as_root: None, tmp_path: Path) -> None:
    config.run.mkdir(parents=True)
    path = config.run / NAME
    program = f"""
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind({str(path)!r})
os.setuid(65534)
listener.listen()
print("ready", flush=True)
connection, _ = listener.accept()
connection.settimeout(10)
sys.exit(1 if connection.recv(1) else 0)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with daemon(config) as found:
            assert found is None
        assert process.wait(15) == 0


def framed(value: object) -> bytes:
    data = json.dumps(value).encode()
    return struct.pack("<I", len(data)) + data


PULL = {"op": "pull", "reference": "oci:/x", "progress": True, "environment": {}}


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        b"GET / HTTP/1.1\r\n\r\n",
        framed([1]),
        framed({}),
        framed({"op": "remove"}),
        framed(PULL | {"environment": {"PATH": 7}}),
        framed(PULL | {"environment": [1]}),
        framed(PULL | {"progress": 1}),
        framed({name: value for name, value in PULL.items() if name != "reference"}),
    ],
    ids=["ones", "http", "array", "empty", "operation", "value", "environment", "progress", "reference"],
)
def test_what_is_no_request(control: Control, config: Config, data: bytes, expect_log: ExpectedLogs) -> None:
    expect_log("broke the protocol of the control socket: (a message|an unknown request)")
    connection, channel = connect(config)
    with connection:
        assert channel.receive(5) is not None
        connection.sendall(data)
        # Reset where the daemon did not read all of it.
        with contextlib.suppress(ConnectionResetError):
            assert channel.receive(5) is None
    with daemon(config) as found:
        assert found is not None


def test_many_who_say_nothing(control: Control, config: Config, expect_log: ExpectedLogs) -> None:
    """Those who come then do their work themselves; the daemon does not grow."""
    expect_log("too many ask")
    idle = [connect(config) for _ in range(64)]
    assert all(channel.receive(5) is not None for _, channel in idle)
    with daemon(config) as found:
        assert found is None
    for connection, _ in idle:
        connection.close()


def test_another_version_or_store_is_not_asked(service: Service, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with Control(service):
        for other in (replace(config, root=config.root.parent / "other"), replace(config, max_workers=7)):
            with daemon(other) as found:
                assert found is None
        with daemon(replace(config, log_level="debug")) as found:
            assert found is not None
        monkeypatch.setattr("als.control.client.__version__", "0.0.1")
        with daemon(config) as found:
            assert found is None


@pytest.mark.parametrize(
    ("references", "variables", "means_the_same"),
    [
        (("oci:/a", "oci-archive:/b.tar:x", "quay.io/a", "busybox"), {"HOME": "/root", "PATH": "bin"}, True),
        (("oci:a",), {}, False),
        (("busybox", "oci-archive:b.tar"), {}, False),
        (("busybox",), {"REGISTRY_AUTH_FILE": "auth.json"}, False),
        (("busybox",), {"XDG_RUNTIME_DIR": "../x"}, False),
        (("busybox",), {"REGISTRY_AUTH_FILE": ""}, True),
        (("busybox",), {"X": "y" * 1_000_000}, False),
    ],
)
def test_what_depends_on_the_folder_stays(references: tuple[str, ...], variables: dict[str, str], means_the_same: bool) -> None:
    assert portable(references, variables) is means_the_same
