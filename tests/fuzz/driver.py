"""Runs cases in a forked process that has little time and memory for each, and tells which one broke what."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import struct
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutate import Mutator

CASE_SECONDS = 2.0
"""CPU time of one case."""
CASE_BYTES = 512 << 20
"""Address space that a case may add to what the process has."""
CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Target:
    """A parser under fuzz.

    :param run: takes any bytes; returns, or raises one of `refusals`.
    :param refusals: what the parser's documentation says it raises.
    :param words: pieces that mean something to it.
    :param repair: makes a mutated input pass a checksum, so that what lies behind it is reached.
    """

    name: str
    run: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    words: Sequence[bytes] = ()
    repair: Callable[[bytes], bytes] | None = None

    def corpus(self) -> list[bytes]:
        """The kept inputs, in the order of their names."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    cases: int
    refused: int
    """How many of them the parser refused."""
    seconds: float


class Broken(AssertionError):
    """A parser broke; the message says how to see it again."""


class Fuzzer:
    """Runs one target.

    :param seed: from which all cases follow.
    """

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._seed = seed
        self._mutator = Mutator(target.corpus(), target.words)

    def case(self, number: int) -> bytes:
        """The input with this number; three of four have their checksums repaired."""
        data = self._mutator.case(self._seed, number)
        return self._target.repair(data) if self._target.repair is not None and number % 4 else data

    def run(self, cases: int) -> Outcome:
        """Run so many cases.

        :raises Broken: the parser raised something else than a refusal, took too long or wanted too much memory.
        """
        start = time.monotonic()
        with mmap.mmap(-1, mmap.PAGESIZE) as shared:
            read_end, write_end = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(read_end)
                self._child(cases, shared, write_end)
            os.close(write_end)
            with os.fdopen(read_end, "rb") as report:
                text = report.read().decode(errors="replace")
            _, status = os.waitpid(pid, 0)
            number, refused = struct.unpack_from("<QQ", shared)
        if status:
            raise Broken(self._describe(number, status, text))
        return Outcome(cases, refused, time.monotonic() - start)

    def _child(self, cases: int, shared: mmap.mmap, report: int) -> None:
        """Never returns."""
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + CASE_BYTES, size + CASE_BYTES))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        refused = 0
        status = 1
        try:
            for number in range(cases):
                struct.pack_into("<QQ", shared, 0, number, refused)
                data = self.case(number)
                signal.setitimer(signal.ITIMER_PROF, CASE_SECONDS)
                try:
                    self._target.run(data)
                except self._target.refusals as error:
                    refused += 1
                    str(error).encode("utf-8")
            struct.pack_into("<QQ", shared, 0, cases, refused)
            status = 0
        finally:
            if status:
                os.write(report, traceback.format_exc()[-4000:].encode(errors="replace"))
            os._exit(status)

    def _describe(self, number: int, status: int, text: str) -> str:
        data = self.case(number)
        name = self._target.name
        kept = Path(__file__).parents[2] / ".cache" / "fuzz" / f"{name}-{self._seed}-{number}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(data)
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
        again = f"python -m tests.fuzz --target {name} --input {kept}"
        return f"{name}: case {number} of seed {self._seed} ended with {how}; again: {again}\n{data[:300]!r}\n{text}"
