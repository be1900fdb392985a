"""A daemon with a folder as its backend, and what a client of it does."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from als.model.forest import forest_path
from tests.harness.fuse_backend import layer_name
from tests.harness.system import stop_process, unmount_below

ROOT = Path(__file__).parents[2]
REFERENCE = "registry.example:5000/team/app:1.0"


def digest_of(word: str | int) -> str:
    """Some digest; the same for the same word."""
    return f"sha256:{hashlib.sha256(str(word).encode()).hexdigest()}"


@dataclass
class Daemon:
    """The daemon's process and its two folders."""

    folder: Path
    mountpoint: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        """Start it and wait until it says that it is ready."""
        process = self.spawn(*arguments)
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 60)[0], "not ready in time"
        assert process.stdout.readline() == b"ready\n", self.log()
        self.process = process

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it and wait for nothing."""
        command = [sys.executable, "-m", "tests.harness.fuse_backend", str(self.folder), str(self.mountpoint), *arguments]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)

    def stop(self, first: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit status."""
        assert self.process is not None
        status = stop_process(self.process, first=first)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        return status

    def log(self) -> str:
        """What it logged in all its lives."""
        return (self.folder / "log").read_text()

    def calls(self, verb: str = "") -> list[str]:
        """The backend's calls so far."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(verb)]

    def layer(self, digest: str, reference: str = REFERENCE) -> Path:
        """The path at which a client looks for a layer."""
        return self.mountpoint / base64.b64encode(reference.encode()).decode() / digest

    def info(self, digest: str, reference: str = REFERENCE) -> Path:
        """One of the three names by which a client tells whether a layer is served."""
        return self.layer(digest, reference) / "info"

    def behind(self, digest: str, reference: str = REFERENCE) -> Path:
        """The folder in which the backend has a layer."""
        return self.folder / "layers" / layer_name(reference, digest)

    def add_layer(self, word: str | int, blob: bytes = b"blob", reference: str = REFERENCE, **extra: str) -> str:
        """Give the backend a layer, with further files beside; its digest."""
        digest = digest_of(word)
        folder = self.behind(digest, reference)
        (folder / "diff").mkdir(parents=True)
        (folder / "diff" / "hello").write_text(str(word))
        (folder / "info").write_text(json.dumps({"compressed-diff-digest": digest, "compressed-size": len(blob)}))
        (folder / "blob").write_bytes(blob)
        for name, text in extra.items():
            (folder / name.replace("_", "-")).write_text(text)
        return digest

    def lazy(self, key: str) -> Path:
        """The directory that overlay has of a lazy layer."""
        return self.mountpoint / ".lazy" / key

    def add_lazy(self, key: str, content: bytes, name: bytes = b"", **extra: str) -> Path:
        """Give the backend a file of a lazy layer, with further files beside; its path in the mount."""
        name = name or hashlib.sha256(content).digest()
        path = self.behind_lazy(key, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        for suffix, text in extra.items():
            path.with_suffix(f".{suffix}").write_text(text)
        return self.lazy(key) / forest_path(name)

    def behind_lazy(self, key: str, name: bytes) -> Path:
        """Where the backend has a file of a lazy layer."""
        return self.folder / "lazy" / key / name.hex()

    def answer_lazy_reads(self) -> None:
        """Answer those reads of lazy files that wait now."""
        with (self.folder / "lazy-gate").open("wb", buffering=0) as gate:
            gate.write(b"\n")

    def open_gate(self) -> int:
        """Let all pass who wait, and who come, until the descriptor is closed."""
        return os.open(self.folder / "gate", os.O_RDWR)


@pytest.fixture
def stopped_daemon(as_root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that was not started yet."""
    folder = tmp_path_factory.mktemp("backend")
    mountpoint = tmp_path_factory.mktemp("fuse") / "store"
    (folder / "layers").mkdir()
    (folder / "lazy").mkdir()
    os.mkfifo(folder / "gate")
    os.mkfifo(folder / "lazy-gate")
    daemon = Daemon(folder, mountpoint)
    yield daemon
    gate = daemon.open_gate()
    try:
        if daemon.process is not None:
            daemon.stop()
    finally:
        os.close(gate)
        unmount_below(mountpoint.parent)


@pytest.fixture
def daemon(stopped_daemon: Daemon) -> Daemon:
    """A daemon that serves."""
    stopped_daemon.start()
    return stopped_daemon
