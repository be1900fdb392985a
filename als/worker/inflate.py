"""Processes that decompress for the privileged side: a pool, kept warm; one that misbehaves is killed and replaced."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from als.errors import AlsError, DeadlineExceeded, WorkerError
from als.formats.codecs import Compression
from als.worker.client import Workers
from als.worker.frames import DATA, END, FrameReader
from als.worker.inflate_job import COMPRESSIONS, HEAD, UNIT

STALL = 20.0
"""Seconds in which a worker has to take or to give something; a MiB takes it some milliseconds."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """A unit as it is in the blob."""

    data: bytes
    most: int
    """Bytes that may come out of it; more are left out, or refused where it is read to its end."""


class Inflater:
    """One process; to be used by one thread at a time."""

    def __init__(self, workers: Workers, stall: float = STALL) -> None:
        self._stall = stall
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._worker = workers.inflate(theirs.fileno())
        self._socket.settimeout(stall)
        self._last = 0.0
        self._reader = FrameReader(self._socket.fileno(), self._idle)
        self.usable = True

    def inflate(
        self, compression: Compression, units: Sequence[Compressed], *, whole: bool = False
    ) -> Iterator[bytearray | AlsError]:
        """What each unit holds, or why it holds nothing. To be exhausted before the next call.

        :raises WorkerError: the process ended or lied.
        :raises DeadlineExceeded: it did nothing for too long.
        """
        self.usable = False
        head = HEAD.pack(COMPRESSIONS.index(compression), whole, len(units))
        try:
            self._socket.sendall(head + b"".join(UNIT.pack(len(unit.data), unit.most) for unit in units))
            for unit in units:
                self._socket.sendall(unit.data)
        except TimeoutError as error:
            raise self._stalled() from error
        except OSError as error:
            raise WorkerError(f"an inflate worker has ended: {error.strerror}") from error
        for unit in units:
            yield self._answer(unit.most)
        self.usable = True

    def close(self) -> None:
        self._worker.kill()
        self._socket.close()

    def _answer(self, most: int) -> bytearray | AlsError:
        found = bytearray()
        self._last = time.monotonic()
        frames = self._reader.frames()
        while True:
            try:
                kind, body = next(frames)
            except (WorkerError, DeadlineExceeded):
                raise
            except AlsError as error:
                return error
            self._last = time.monotonic()
            if kind == END:
                return found
            if kind != DATA or not body or len(found) + len(body) > most:
                raise WorkerError("an inflate worker gave what it was not asked for")
            found += body

    def _idle(self) -> None:
        if time.monotonic() - self._last > self._stall:
            raise self._stalled()

    def _stalled(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"an inflate worker did nothing for {self._stall:.0f} seconds")


class InflatePool:
    """Thread-safe; a context manager.

    :param keep: how many idle processes are kept.
    """

    def __init__(self, workers: Workers, *, keep: int = 4, stall: float = STALL) -> None:
        self._workers = workers
        self._keep = keep
        self._stall = stall
        self._lock = threading.Lock()
        self._idle: list[Inflater] = []
        self._closed = False

    @contextlib.contextmanager
    def lent(self, *, fresh: bool = False) -> Iterator[Inflater]:
        """A process for a while. It ends with the block if something went wrong with it.

        :param fresh: one that has seen nobody else's bytes: for what is judged by what it says.
        """
        with self._lock:
            inflater = self._idle.pop() if self._idle and not fresh else None
        inflater = inflater or Inflater(self._workers, self._stall)
        try:
            yield inflater
        finally:
            with self._lock:
                keep = inflater.usable and not self._closed and len(self._idle) < self._keep
                if keep:
                    self._idle.append(inflater)
            if not keep:
                inflater.close()

    def close(self) -> None:
        """End the idle processes, and the others once they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for inflater in idle:
            inflater.close()

    def __enter__(self) -> InflatePool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
