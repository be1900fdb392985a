"""Faults on purpose, at the boundary to the kernel: the Nth call of a kind fails, or is the last thing a process does.

strace(1) does it: ``--inject=CALL:error=ENOSPC:when=N``, ``:signal=KILL``. A program is run once to find out
which calls it makes (:func:`points`), and then once for each point that is to be tested. strace counts the calls of each thread
for itself, so programs with several threads can meet a fault in each of them; which is what a full disk does as well.
"""

from __future__ import annotations

import re
import signal
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.system import Completed, run

_CALL = re.compile(r"^(?P<thread>\d+)\s+(?P<name>\w+)\((?P<rest>.*)$")
_STARTED_BY_SIGNAL = 128


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

    The program is run to its end and must succeed.
    """
    with tempfile.NamedTemporaryFile("r", prefix="als-strace-", encoding="utf-8", errors="replace") as file:
        run(*_strace(syscalls, file.name), "-y", "-s", "0", *command, env=env, deadline=300)
        lines = file.read().splitlines()
    counts: Counter[tuple[str, str]] = Counter()
    found: dict[Point, None] = {}
    for line in lines:
        match = _CALL.match(line)
        if match is None:
            continue
        counts[match["thread"], match["name"]] += 1
        if match["rest"] in where:
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
    inject = ["-e", f"inject={point.syscall}:{fault}:when={point.number}{last}"]
    return run(*_strace([point.syscall], "/dev/null"), *inject, *command, env=env, status=None, deadline=300)


def _strace(syscalls: Sequence[str], output: str) -> list[str]:
    # Not with --seccomp-bpf: strace 6.1 injects no signals then.
    return ["strace", "-f", "-qq", "-o", output, "-e", f"trace={','.join(syscalls)}"]
