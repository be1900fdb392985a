"""SIGKILLs at random moments, under readers of lazy files: what they get, and how long they wait.

The readers here go through overlay, as in containers, and hold their files open, so that every read that the page cache does
not answer is FUSE's; :mod:`tests.restart.containers` has real containers instead.
"""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.harness.als import AlsDaemon
from tests.harness.kills import Killer

_LONGEST_READ = 300_000


@dataclass
class Report:
    """What came of it."""

    reads: int = 0
    wrong: list[str] = field(default_factory=list)
    """Reads that failed or had other bytes."""
    gaps: list[float] = field(default_factory=list)
    """Seconds from each kill to the answer of the first read that was begun after it."""
    slowest: float = 0.0
    """Seconds that the longest read took."""

    def __str__(self) -> str:
        median, worst = statistics.median(self.gaps), max(self.gaps)
        return (
            f"{len(self.gaps)} kills, {self.reads} reads, {len(self.wrong)} wrong; from a kill to the next answered read "
            f"{median:.2f} s (median), {worst:.2f} s (worst); the longest read took {self.slowest:.2f} s"
        )


class Load(Protocol):
    """Who reads while the daemon is killed."""

    @property
    def report(self) -> Report:
        """What came of it so far."""
        ...

    def now(self) -> float:
        """On the clock of `answered_since`."""
        ...

    def answered_since(self, moment: float, deadline: float) -> float:
        """Wait for a read that needs the daemon and was begun after a moment; when it was answered.

        :param deadline: seconds; no answer by then fails the test.
        """
        ...


class Readers:
    """Threads that read random parts of files and compare them. A context manager."""

    def __init__(self, files: Mapping[Path, bytes], count: int, seed: int) -> None:
        self.report = Report()
        self._contents = list(files.values())
        self._names = [str(path) for path in files]
        self._files = [os.open(path, os.O_RDONLY) for path in files]
        self._lock = threading.Condition()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._ended: list[tuple[float, float]] = []
        self._tasks = [self._pool.submit(self._read_all, random.Random(seed + number)) for number in range(count)]

    def _read_all(self, chance: random.Random) -> None:
        while not self._stop.is_set():
            number = chance.randrange(len(self._files))
            offset, length = chance.randrange(len(self._contents[number])), chance.randrange(1, _LONGEST_READ)
            begun = time.monotonic()
            fault = self._read(number, offset, length)
            ended = time.monotonic()
            with self._lock:
                self.report.reads += 1
                self.report.slowest = max(self.report.slowest, ended - begun)
                self.report.wrong += [fault] if fault else []
                self._ended.append((begun, ended))
                self._lock.notify_all()

    def _read(self, number: int, offset: int, length: int) -> str:
        where = f"{self._names[number]} at {offset}"
        # Not from the page cache.
        os.posix_fadvise(self._files[number], 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            data = os.pread(self._files[number], length, offset)
        except OSError as error:
            return f"{where}: {error.strerror}"
        return "" if data == self._contents[number][offset : offset + length] else f"{where}: wrong bytes"

    def now(self) -> float:
        """See `Load`."""
        return time.monotonic()

    def answered_since(self, moment: float, deadline: float) -> float:
        """See `Load`."""

        def found() -> list[float]:
            return [ended for begun, ended in self._ended if begun > moment]

        with self._lock:
            assert self._lock.wait_for(found, deadline), f"no read is answered within {deadline:g} s: {self.report.wrong}"
            answer = min(found())
            self._ended.clear()
            return answer

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for task in self._tasks:
            task.result()
        for file in self._files:
            os.close(file)


def kill_under_load(als: AlsDaemon, load: Load, kills: int, seed: int, deadline: float) -> None:
    """Kill the kept daemon so many times; the load's report has what came of it.

    :param deadline: seconds within which reads go on.
    """
    killer = Killer(als, random.Random(seed), deadline)
    while killer.kills < kills:
        killer.wait()
        moment = load.now()
        killer.kill()
        load.report.gaps.append(load.answered_since(moment, deadline) - moment)
        killer.wait_replaced()
