"""What the harness needs of the machine: commands with deadlines, mounts, loop devices, processes, mount namespaces."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Completed = subprocess.CompletedProcess[bytes]


class CommandFailed(AssertionError):
    """A command ended with another status than was expected; its output is in the message."""


def run(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    data: bytes = b"",
    deadline: float = 120,
    status: int | None = 0,
    new_session: bool = False,
) -> Completed:
    """Run a command to its end and return it with its output.

    :param env: added to this process's environment.
    :param deadline: seconds; afterwards the command is killed.
    :param status: the exit status that is expected; None: any.
    :raises CommandFailed: the status is another.
    :raises subprocess.TimeoutExpired: it did not end in time.
    """
    done = subprocess.run(
        [str(word) for word in command],
        input=data,
        capture_output=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        timeout=deadline,
        check=False,
        start_new_session=new_session,
    )
    if status is not None and done.returncode != status:
        text = (done.stdout[-4000:] + done.stderr[-8000:]).decode("utf-8", "replace")
        raise CommandFailed(f"{' '.join(map(str, command))}\nended with {done.returncode}, not {status}:\n{text}")
    return done


def wait_until(condition: Callable[[], bool], what: str, deadline: float = 30) -> None:
    """Poll until the condition holds.

    :raises TimeoutError: it did not within `deadline` seconds.
    """
    end = time.monotonic() + deadline
    pause = 0.005
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline} s")
        select.select([], [], [], pause)
        pause = min(pause * 1.5, 0.1)


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo (proc(5))."""

    point: Path
    fstype: str
    source: str
    options: str
    shared: bool


def mounts(pid: int | str = "self") -> list[Mount]:
    """Every mount of a process's namespace, in the order in which they were made."""
    result = []
    for line in Path(f"/proc/{pid}/mountinfo").read_text("utf-8").splitlines():
        left, _, right = line.partition(" - ")
        fields, (fstype, source, super_options) = left.split(), right.split(" ", 2)
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        shared = any(word.startswith("shared:") for word in fields[6:])
        result.append(Mount(Path(point), fstype, source, f"{fields[5]},{super_options}", shared))
    return result


def mounts_below(*folders: Path) -> list[Mount]:
    """Mounts at or below any of the folders, in the order in which they were made."""
    resolved = [folder.resolve() for folder in folders]
    return [mount for mount in mounts() if any(mount.point.is_relative_to(folder) for folder in resolved)]


def unmount_below(*folders: Path) -> list[Mount]:
    """Unmount all there is at or below the folders, the last made first; lazily where something still uses it.

    Returns what was mounted.
    """
    found = mounts_below(*folders)
    for mount in reversed(found):
        if run("umount", mount.point, status=None, deadline=30).returncode:
            run("umount", "-l", mount.point, status=None, deadline=30)
    return found


def loops_below(*folders: Path) -> list[str]:
    """Loop devices whose backing file lies below any of the folders (deleted ones as well)."""
    prefixes = tuple(f"{folder.resolve()}/" for folder in folders)
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            name = backing.read_text("utf-8").strip()
        except FileNotFoundError:  # Detached in the meantime.
            continue
        if name.startswith(prefixes):
            found.append(f"/dev/{backing.parts[3]}")
    return found


def processes_below(*folders: Path) -> dict[int, str]:
    """Processes that have to do with the folders: their command lines by process ID.

    Those whose command line names something below, and those whose root is an overlay of it (a container's).
    """
    prefixes = [f"{folder.resolve()}/" for folder in folders]
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            with (entry / "mountinfo").open(encoding="utf-8") as lines:
                root = next((line for line in lines if line.split()[4] == "/"), "")
        except OSError:  # It has ended, or is a zombie.
            continue
        if any(prefix in command or prefix in root for prefix in prefixes):
            found[int(entry.name)] = command.strip()
    return found


def stop_process(process: subprocess.Popen[bytes], deadline: float = 20, first: signal.Signals = signal.SIGTERM) -> int:
    """Ask a child to end, kill it when it does not within `deadline` seconds, and return its status."""
    if process.poll() is None:
        process.send_signal(first)
        try:
            return process.wait(deadline)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(10)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_ENTER = """
umount -R /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 none /sys/fs/cgroup || exit 125
echo ready
exec cat >/dev/null
"""


class MountNamespace:
    """A mount namespace that lives as long as this object, in which commands are run one after the other or at once.

    It receives the mounts that are made outside afterwards on mounts whose propagation is shared; none made inside leaks
    out, and all of them are gone with it. On a machine that delegates no cgroup2 (see :func:`cgroups_usable`) it gets a
    /sys/fs/cgroup of its own.
    """

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "-m", "--propagation", "slave", "/bin/sh", "-c", _ENTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        ready, _, _ = select.select([self._holder.stdout], [], [], 30)
        if not ready or self._holder.stdout.readline() != b"ready\n":
            self.close()
            raise RuntimeError("cannot make a mount namespace with a cgroup2 of its own: this needs root")

    @property
    def pid(self) -> int:
        """A process that lives in the namespace."""
        return self._holder.pid

    def command(self, *words: str) -> list[str]:
        """The command line that runs `words` inside."""
        return ["nsenter", "-t", str(self.pid), "-m", "--", *words]

    def close(self) -> None:
        """Let go of the namespace; it ends with the last process in it."""
        if self._holder.stdin is not None and not self._holder.stdin.closed:
            self._holder.stdin.close()
        try:
            self._holder.wait(5)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait(5)
        if self._holder.stdout is not None:
            self._holder.stdout.close()


def cgroups_usable() -> bool:
    """Whether podman can make cgroups here: systemd runs the machine, or a cgroup2 tree with controllers is writable."""
    if Path("/run/systemd/system").is_dir() and Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return True
    root = Path("/sys/fs/cgroup")
    controllers = root / "cgroup.controllers"
    if not controllers.exists() or "memory" not in controllers.read_text("ascii").split():
        return False
    probe = root / f"als-probe-{os.getpid()}"
    try:
        probe.mkdir()
    except OSError:
        return False
    probe.rmdir()
    return True
