"""A kept daemon with a folder as its backend."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from als.fuse.mountpoint import FSTYPE
from tests.fuse.conftest import ROOT, Daemon
from tests.fuse.conftest import stopped_daemon as stopped_daemon
from tests.harness.system import wait_until

KEY = "1" * 64
_STANDBY = """
from als.keeper import standby
standby.prepare()
from tests.harness import fuse_backend
if standby.wait():
    fuse_backend.main()
"""


@dataclass
class Kept(Daemon):
    """`process` is the keeper's."""

    watchdog: float = 30.0
    standby: bool = False
    """Whether the next daemon waits while one serves."""
    arguments: list[str] = field(default_factory=list)

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        where = ["--mountpoint", str(self.mountpoint), "--fstype", FSTYPE, "--run", str(self.folder)]
        daemon = [sys.executable, "-m", "tests.harness.fuse_backend", str(self.folder), str(self.mountpoint), *arguments]
        waiting = [sys.executable, "-c", _STANDBY, *daemon[3:]] if self.standby else []
        options = ["--watchdog", str(self.watchdog), *(f"--standby={part}" for part in waiting)]
        command = [sys.executable, "-m", "als.keeper", *where, *options, "--", *daemon]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)

    @property
    def pid(self) -> int:
        """The serving daemon's process."""
        return int((self.folder / "pid").read_text())

    def wait_standby(self) -> int:
        """Until a process waits to become the daemon; which one."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")

        def waiting() -> list[int]:
            return [int(each) for each in children.read_text("ascii").split() if int(each) != self.pid]

        wait_until(lambda: bool(waiting()), "a process waits to become the daemon")
        return waiting()[0]

    def wait_ready(self) -> None:
        """Until the next daemon says that it is ready."""
        assert self.process is not None
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 60)[0], self.log()
        line = b""
        while not line.endswith(b"\n"):
            read = os.read(self.process.stdout.fileno(), 1)
            assert read, self.log()
            line += read
        assert line == b"ready\n", self.log()

    def kill(self) -> None:
        """SIGKILL the daemon and wait for the next one."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait_ready()

    def ended(self, status: int) -> bool:
        """Whether the keeper ends, with that status."""
        assert self.process is not None
        return self.process.wait(30) == status

    @contextmanager
    def waiting_reads(self, key: str, count: int) -> Iterator[None]:
        """Within, so many more reads have arrived at the backend than before."""
        before = len(self.calls("lazy-read"))
        yield
        wait_until(lambda: len(self.calls("lazy-read")) >= before + count, f"{count} reads of {key} wait")


@pytest.fixture
def stopped_kept(stopped_daemon: Daemon) -> Iterator[Kept]:
    """A keeper that was not started yet."""
    kept = Kept(stopped_daemon.folder, stopped_daemon.mountpoint)
    yield kept
    if kept.process is not None and kept.process.poll() is None:
        kept.stop()
    elif kept.process is not None and kept.process.stdout is not None:
        kept.process.stdout.close()
    print(kept.log()[-6000:])


@pytest.fixture
def kept(stopped_kept: Kept) -> Kept:
    """A keeper whose daemon serves."""
    stopped_kept.start()
    return stopped_kept
