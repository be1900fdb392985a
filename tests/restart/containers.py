"""Containers of real podmans that read and checksum files while the daemon is killed, and others that come and go meanwhile.

A `Steady` one is a shell that reads its files again and again, past the page cache, and says when it began, when it was done
and which sum it got. First of all it opens all of its files. Those that are not here by then stay FUSE's for it: overlay
looks for a file's data when it is first opened, and never again.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.harness.podman import Podman
from tests.harness.system import CommandFailed
from tests.restart.killing import Report

_COMMAND_SECONDS = 900.0
"""For one command of podman, whatever becomes of the daemon meanwhile: it may have to begin anew with each of many daemons."""
_BETWEEN_SECONDS = 0.2
"""Between two rounds of containers that come and go, so that there is processor time left to start a daemon."""
_READ_ALL_THE_TIME = """
for file in /d/*; do : <"$file"; done
echo opened
while :; do
  for file in /d/*; do
    read begun _ </proc/uptime
    sum=$(dd if="$file" bs=64k iflag=direct status=none | sha256sum)
    read ended _ </proc/uptime
    echo "$file $begun $ended ${sum%% *}"
    usleep 50000
  done
done
"""


@dataclass(frozen=True)
class Sample:
    """An image with files below /d."""

    reference: str
    sums: Mapping[str, str]
    """The sha256 of each, by path."""

    @staticmethod
    def of(reference: str, files: Mapping[str, bytes]) -> Sample:
        """
        :param files: by their names in the layer.
        """
        return Sample(reference, {f"/{name}": hashlib.sha256(data).hexdigest() for name, data in files.items()})


class Steady:
    """A container that reads all the time; a context manager."""

    def __init__(self, podman: Podman, name: str, sample: Sample, report: Report, changed: threading.Condition) -> None:
        """
        :param report: what it reads is added to, with the lock of `changed`, which is notified.
        """
        self.ended: list[tuple[float, float]] = []
        """When each read began and ended, on the clock of /proc/uptime. The owner of `changed` may clear it."""
        self._podman = podman
        self._name = f"{'.'.join(map(str, podman.version))}-{name}"
        self._sample = sample
        self._report = report
        self._changed = changed
        self._opened = self._over = False
        self._process: subprocess.Popen[bytes]
        self._thread = threading.Thread(target=self._listen, name=self._name)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._note(line.decode("utf-8", "replace").split())
                self._changed.notify_all()
        with self._changed:
            if not self._over:
                self._report.wrong.append(f"{self._name}: it ended")
            self._changed.notify_all()

    def _note(self, words: Sequence[str]) -> None:
        match words:
            case [path, begun, ended, digest] if path in self._sample.sums:
                took = float(ended) - float(begun)
                self._report.reads += 1
                self._report.slowest = max(self._report.slowest, took)
                self.ended.append((float(begun), float(ended)))
                if digest != self._sample.sums[path]:
                    self._report.wrong.append(f"{self._name}: {path}: wrong bytes or none, read in {took:.2f} s")
            case ["opened"]:
                self._opened = True
            case _:
                self._report.wrong.append(f"{self._name}: {' '.join(words)}")

    def wait_opened(self, deadline: float) -> None:
        """Wait until it has opened all of its files."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._opened or bool(self._report.wrong), deadline)
        assert not self._report.wrong, self._report.wrong
        assert came, f"{self._name}: nothing is opened for {deadline:g} s"

    def __enter__(self) -> Self:
        # A pull, if the image is not here: lazily, if it can be had so.
        self._process = self._podman.start(
            "run", "-q", "--rm", "--name", self._name, self._sample.reference, "sh", "-c", _READ_ALL_THE_TIME
        )
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._over = True
        end = time.monotonic() + _COMMAND_SECONDS
        while self._process.poll() is None and time.monotonic() < end:
            # Once is not enough where podman is still about to start it.
            self._podman("rm", "-f", "-t", "0", self._name)
            self._thread.join(1)
        self._process.kill()
        self._thread.join(_COMMAND_SECONDS)
        assert self._process.stderr is not None
        errors = self._process.stderr.read()
        self._process.communicate()
        if errors.strip():
            self._report.wrong.append(f"{self._name}: {errors.decode('utf-8', 'replace')[-2000:]}")


class Passing:
    """Containers that are started, stopped, started again and removed, one after the other, in a thread; a context manager."""

    def __init__(
        self, podman: Podman, samples: Sequence[Sample], fresh: Callable[[], Sample] | None, report: Report, seed: int
    ) -> None:
        """
        :param samples: images that are here.
        :param fresh: makes one that is not; None: podman is to pull nothing.
        """
        self.rounds = 0
        self._podman = podman
        self._samples = samples
        self._fresh = fresh
        self._report = report
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._name = f"{'.'.join(map(str, podman.version))}-passing"
        self._thread = threading.Thread(target=self._work, name=self._name)

    def _work(self) -> None:
        while not self._stop.wait(_BETWEEN_SECONDS):
            try:
                if self._fresh is not None and self.rounds % 2:
                    self._come_and_go(self._fresh(), pull=True)
                else:
                    self._come_and_go(self._chance.choice(self._samples), pull=False)
            except (CommandFailed, AssertionError, subprocess.TimeoutExpired) as error:
                self._report.wrong.append(f"{self._name}: {error}")
                return
            self.rounds += 1

    def _come_and_go(self, sample: Sample, *, pull: bool) -> None:
        podman = self._podman
        if pull:
            podman.pull(sample.reference, deadline=_COMMAND_SECONDS)
        self._check(sample, "run", "--rm", "--pull=never", sample.reference)
        podman("run", "-d", "--name", self._name, "--pull=never", sample.reference, "sleep", "1000", deadline=_COMMAND_SECONDS)
        self._check(sample, "exec", self._name)
        podman("stop", "-t", "0", self._name, deadline=_COMMAND_SECONDS)
        podman("start", self._name, deadline=_COMMAND_SECONDS)
        self._check(sample, "exec", self._name)
        podman("rm", "-f", "-t", "0", self._name, deadline=_COMMAND_SECONDS)
        if pull:
            podman("rmi", sample.reference, deadline=_COMMAND_SECONDS)

    def _check(self, sample: Sample, *how: str) -> None:
        out = self._podman(*how, "sha256sum", *sample.sums, deadline=_COMMAND_SECONDS).stdout.decode()
        seen = {path: digest for digest, _, path in (line.partition("  ") for line in out.splitlines())}
        assert seen == sample.sums, f"{how}: other bytes: {sorted(set(seen.items()) ^ set(sample.sums.items()))[:4]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(2 * _COMMAND_SECONDS)
        if self._thread.is_alive():
            self._report.wrong.append(f"{self._name}: it hangs")


class Containers:
    """Steady ones, as a load to kill a daemon under."""

    def __init__(self) -> None:
        self._report = Report()
        self._changed = threading.Condition()
        self.lazy: list[Steady] = []
        """Of images whose files the daemon serves."""
        self.sealed: list[Steady] = []
        """Of images that need it for nothing."""

    @property
    def report(self) -> Report:
        """See :class:`tests.restart.killing.Load`."""
        return self._report

    def steady(self, podman: Podman, name: str, sample: Sample) -> Steady:
        """One whose reads are reported; whoever enters its context puts it into one of the lists."""
        return Steady(podman, name, sample, self._report, self._changed)

    def now(self) -> float:
        """See :class:`tests.restart.killing.Load`."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def answered_since(self, moment: float, deadline: float) -> float:
        """See :class:`tests.restart.killing.Load`: of the containers that need the daemon, the one that waits longest."""
        with self._changed:
            self._wait(lambda: all(_first_since(each, moment) for each in self.lazy), deadline)
            answer = max(_first_since(each, moment) for each in self.lazy)
            for each in (*self.lazy, *self.sealed):
                each.ended.clear()
            return answer

    def all_read(self, deadline: float) -> None:
        """Wait until each has read something from now on."""
        moment = self.now()
        with self._changed:
            self._wait(lambda: all(_first_since(each, moment) for each in (*self.lazy, *self.sealed)), deadline)

    def read_without_a_daemon(self, reads: int, deadline: float) -> tuple[int, int]:
        """While the daemon stands still: wait until each sealed one has read so often.

        :returns: how often all lazy ones have read meanwhile, and how often the sealed ones have.
        """
        moment = self.now()

        def counted(steady: Sequence[Steady]) -> list[int]:
            return [sum(begun > moment for begun, _ in each.ended) for each in steady]

        with self._changed:
            self._wait(lambda: min(counted(self.sealed)) >= reads, deadline)
            return sum(counted(self.lazy)), sum(counted(self.sealed))

    def _wait(self, condition: Callable[[], bool], deadline: float) -> None:
        came = self._changed.wait_for(lambda: bool(self._report.wrong) or condition(), deadline)
        assert not self._report.wrong, self._report.wrong
        assert came, f"some container reads nothing for {deadline:g} s"


def _first_since(steady: Steady, moment: float) -> float:
    """When the first read was answered that was begun after a moment; 0: none was."""
    return min((ended for begun, ended in steady.ended if begun > moment), default=0.0)
