"""Faults on purpose, at the boundary to the kernel: the Nth call of a kind fails, or is the last thing a process does.

strace(1) does it: ``--inject=CALL:error=ENOSPC:when=N``, ``:signal=KILL``. A program is run once to find out
which calls it makes (:func:`points`), and then once for each point that is to be tested. strace counts the calls of each thread
for itself, so programs with several threads can meet a fault in each of them; which is what a full disk does as well.
"""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.harness.system import Completed, run, stop_process, wait_until

_CALL = re.compile(r"^(?P<thread>\d+)\s+(?P<name>\w+)\((?P<rest>.*)$")
_REFUSED = re.compile(r"\) += -1 E")
_STARTED_BY_SIGNAL = 128
_FOR_EVER = "1000s"
_SHOWN = ("-y", "-s", "0")
"""How strace writes calls, for :class:`Below`."""


@dataclass(frozen=True)
class Below:
    """Calls that concern a folder: by a path in it or, with ``-y``, a descriptor of a file in it."""

    folder: Path

    def __contains__(self, arguments: str) -> bool:
        return f"{self.folder}/" in arguments


@dataclass(frozen=True)
class Point:
    """The `number`-th call (from 1) of a kind that a thread makes."""

    syscall: str
    number: int


def points(command: Sequence[str], where: Below, syscalls: Sequence[str], env: Mapping[str, str] | None = None) -> list[Point]:
    """Where a program can be made to fail: its calls of these kinds that concern a folder, in the order in which they came.
    Those that failed by themselves are left out.

    The program is run to its end and must succeed.
    """
    with tempfile.NamedTemporaryFile("r", prefix="als-strace-", encoding="utf-8", errors="replace") as file:
        run(*_strace(syscalls, file.name), *_SHOWN, *command, env=env, deadline=300)
        return _points(file.read(), where)


@contextmanager
def watched(process: int, where: Below, syscalls: Sequence[str]) -> Iterator[list[Point]]:
    """The same of a process that runs, for the time of the context; the list is filled when that ends."""
    found: list[Point] = []
    with tempfile.NamedTemporaryFile("r", prefix="als-strace-", encoding="utf-8", errors="replace") as file:
        with _attached([*_strace(syscalls, file.name), *_SHOWN], process):
            yield found
        found += _points(file.read(), where)


@contextmanager
def failing(process: int, point: Point, error: str, last: str = "") -> Iterator[None]:
    """Calls of a process that runs fail for the time of the context; counted from its begin. See :func:`failed`."""
    with _attached([*_strace([point.syscall], "/dev/null"), *_inject(point, f"error={error}", last)], process):
        yield


@contextmanager
def dying(process: int, point: Point) -> Iterator[None]:
    """A process that runs gets SIGKILL if it makes that call within the context."""
    with _attached([*_strace([point.syscall], "/dev/null"), *_inject(point, "signal=KILL", "")], process):
        yield


@contextmanager
def hanging(process: int, syscalls: Sequence[str]) -> Iterator[None]:
    """A process that runs does not get on with such calls before the context ends."""
    with _attached([*_strace(syscalls, "/dev/null"), "-e", f"inject={','.join(syscalls)}:delay_enter={_FOR_EVER}"], process):
        yield


@contextmanager
def _attached(command: Sequence[str], process: int) -> Iterator[None]:
    tracer = subprocess.Popen([*command, "-p", str(process)])
    try:
        wait_until(lambda: all(_tracer(task) == tracer.pid for task in _tasks(process)), f"strace of {process}")
        yield
    finally:
        stop_process(tracer)


def _tasks(process: int) -> list[Path]:
    return list(Path(f"/proc/{process}/task").iterdir())


def _tracer(task: Path) -> int:
    """Who traces a thread; of one that has ended it does not matter."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return int((task / "status").read_text().partition("TracerPid:")[2].split()[0])
    return 0


def _points(log: str, where: Below) -> list[Point]:
    counts: Counter[tuple[str, str]] = Counter()
    found: dict[Point, None] = {}
    for line in log.splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        counts[match["thread"], match["name"]] += 1
        # A folder that is there already takes no space, and changes nothing: there are hundreds of these.
        if match["rest"] in where and not _REFUSED.search(match["rest"]):
            found[Point(match["name"], counts[match["thread"], match["name"]])] = None
    return list(found)


def killed(command: Sequence[str], point: Point, env: Mapping[str, str] | None = None) -> bool:
    """Run a program that gets SIGKILL as it makes that call; whether it came so far."""
    done = _injected(command, point, "signal=KILL", env)
    return done.returncode in (-signal.SIGKILL, _STARTED_BY_SIGNAL + signal.SIGKILL)


def failed(command: Sequence[str], point: Point, error: str, env: Mapping[str, str] | None = None, last: str = "") -> Completed:
    """Run a program one of whose calls fails.

    :param error: the errno's name.
    :param last: "+" where every later call of the kind fails as well, as on a disk that stays full.
    """
    return _injected(command, point, f"error={error}", env, last)


def _injected(command: Sequence[str], point: Point, fault: str, env: Mapping[str, str] | None, last: str = "") -> Completed:
    tracer = [*_strace([point.syscall], "/dev/null"), *_inject(point, fault, last)]
    return run(*tracer, *command, env=env, status=None, deadline=300)


def _inject(point: Point, fault: str, last: str) -> list[str]:
    return ["-e", f"inject={point.syscall}:{fault}:when={point.number}{last}"]


def _strace(syscalls: Sequence[str], output: str) -> list[str]:
    # Not with --seccomp-bpf: strace 6.1 injects no signals then.
    return ["strace", "-f", "-qq", "-o", output, "-e", f"trace={','.join(syscalls)}"]
