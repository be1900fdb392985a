"""What a worker really can and cannot do, asked of real workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from als.errors import WorkerError
from als.native.seccomp import syscall_number
from als.registry.endpoint import Endpoint
from als.worker.client import Workers

NOBODY = (65534, 65534)
DANGEROUS = ("mount", "ptrace", "bpf", "keyctl", "unshare", "setns", "open_by_handle_at", "execve", "perf_event_open")
DANGEROUS += ("io_uring_setup", "process_vm_readv", "pidfd_getfd", "seccomp", "kexec_load", "userfaultfd")
CALLS = {name: number for name in DANGEROUS if (number := syscall_number(name)) is not None}
"""Calls that no worker may make, with arguments that are wrong: a kernel that looked at them would say EINVAL or the like."""

PROBE = """
import ctypes, errno, json, os, socket, sys
from als.worker.sandbox import Sandbox, enter
def tried(what):
    try:
        what()
        return "done"
    except OSError as error:
        return type(error).__name__
    except MemoryError:
        return "MemoryError"
libc = ctypes.CDLL(None, use_errno=True)
def called(name):
    number = CALLS[name]
    ctypes.set_errno(0)
    return errno.errorcode.get(ctypes.get_errno(), "done") if libc.syscall(number, -1, 0, 0, 0, 0, 0) < 0 else "done"
CALLS = json.loads(sys.argv[4])
network, folder, port = sys.argv[1] == "network", sys.argv[2], int(sys.argv[3])
import encodings.idna
before = os.open("/", os.O_RDONLY)
os.close(before)
enter(Sandbox(65534, 65534, network=network, memory_bytes=1 << 30), folder)
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines()) if network else {}
print(json.dumps({
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(),
    "no_new_privs": status.get("NoNewPrivs"), "caps": status.get("CapEff"),
    "root": tried(lambda: os.listdir("/")) and sorted(os.listdir("/")),
    "shadow": tried(lambda: open("/etc/shadow")),
    "write": tried(lambda: open("/tmp/als-probe-" + str(os.getpid()), "w").write("x" * 9000)),
    "connect": tried(lambda: socket.create_connection(("127.0.0.1", port), 5)),
    "setuid": tried(lambda: os.setuid(0)),
    "memory": tried(lambda: bytearray(2 << 30)),
    "fork": tried(lambda: os.fork() or os._exit(0)),
    "files": tried(lambda: [os.dup(0) for _ in range(300)]),
    "exec": tried(lambda: os.execv("/bin/true", ["true"])),
    "packets": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "crypto": tried(lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)),
    "kill": tried(lambda: os.kill(os.getppid(), 0)),
    **{name: called(name) for name in CALLS},
}))
sys.stdout.flush()
os._exit(0)
"""


def probe(kind: str, folder: Path) -> dict[str, object]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        arguments = [sys.executable, "-c", PROBE, kind, str(folder), str(server.getsockname()[1]), json.dumps(CALLS)]
        done = subprocess.run(arguments, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_parse_worker_has_neither_files_nor_network(tmp_path: Path, as_root: None) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    found = probe("parse", empty)
    assert found["uid"] == [65534] * 3
    assert found["gid"] == [65534] * 3
    assert found["groups"] == []
    assert found["root"] == []
    assert found["shadow"] == "FileNotFoundError"
    assert found["write"] == "FileNotFoundError"
    assert found["connect"] == "PermissionError"
    assert found["setuid"] == "PermissionError"
    assert found["memory"] == "MemoryError"
    assert found["fork"] == "PermissionError"
    assert found["files"] == "OSError"
    assert found["exec"] == "PermissionError"
    assert found["packets"] == found["crypto"] == found["kill"] == "PermissionError"
    assert {name: found[name] for name in CALLS} == dict.fromkeys(CALLS, "EPERM")


def test_a_fetch_worker_has_a_network_and_can_write_no_file(tmp_path: Path, as_root: None) -> None:
    found = probe("network", tmp_path)
    assert found["uid"] == [65534] * 3
    assert found["no_new_privs"] == "1"
    assert found["caps"] == "0" * 16
    assert found["shadow"] == "PermissionError"
    assert found["write"] == "OSError"
    assert found["connect"] == "done"
    assert found["setuid"] == "PermissionError"
    assert found["memory"] == "MemoryError"
    assert found["fork"] == found["exec"] == found["kill"] == "PermissionError"
    assert found["packets"] == found["crypto"] == "OSError", "no such family"
    assert {name: found[name] for name in CALLS} == dict.fromkeys(CALLS, "EPERM")
    for path in Path("/tmp").glob("als-probe-*"):
        assert path.stat().st_size == 0
        path.unlink()


def test_a_worker_ends_when_nobody_wants_it(tmp_path: Path, as_root: None) -> None:
    blob_read, blob_write = os.pipe()
    frames_read, frames_write = os.pipe()
    with Workers(NOBODY, tmp_path / "empty") as workers:
        with workers.parse("tar", blob_read, frames_write) as worker:
            assert not worker.ended()
            os.close(blob_write)
            assert worker.ended(20), "end of input"
        with workers.parse("tar", blob_read, frames_write) as worker:
            pass
    for fd in (blob_read, frames_read, frames_write):
        os.close(fd)


def test_a_dead_zygote_is_replaced(tmp_path: Path, as_root: None) -> None:
    with Workers(NOBODY, tmp_path / "empty") as workers:
        workers.start()
        zygote = workers._zygote
        assert zygote is not None
        zygote.send_signal(signal.SIGKILL)
        zygote.wait(10)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        endpoint = Endpoint("127.0.0.1:1", "name").to_json()
        with ours, theirs, workers.fetch({"endpoints": [endpoint]}, theirs.fileno()) as worker:
            theirs.close()
            assert not worker.ended()
            ours.close()
            assert worker.ended(20)


def test_a_zygote_that_cannot_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    read_end, write_end = os.pipe()
    with Workers(NOBODY, tmp_path / "empty") as workers, pytest.raises(WorkerError, match="no worker could be started"):
        workers.parse("tar", read_end, write_end)
    os.close(read_end)
    os.close(write_end)


def test_a_fetch_worker_has_threads(tmp_path: Path, as_root: None) -> None:
    """By clone(2): clone3(2) hides its flags from a filter and is said not to exist."""
    script = """
import socket, threading
from als.worker.sandbox import Sandbox, enter
import encodings.idna
enter(Sandbox(65534, 65534, network=True, memory_bytes=1 << 30), "/")
said = []
threads = [threading.Thread(target=said.append, args=(number,)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
socket.getaddrinfo("localhost", 80)
print(sorted(said))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[0, 1, 2, 3]\n"
