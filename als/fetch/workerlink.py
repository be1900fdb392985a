"""A worker that is fed bytes over a socket and answers there in frames."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Self

from als.errors import DeadlineExceeded, LimitExceeded, WorkerError
from als.worker.client import Worker
from als.worker.frames import DATA, END, FrameReader

_PIECE = 1 << 20


class WorkerLink:
    """A worker and the socket between it and us; a context manager, after which it has ended.

    :param start: starts it with the other end of the socket.
    :param stall: seconds for which it may take and give nothing.
    :param check: asked again and again while nothing comes; raises when the wait is to end before.
    """

    def __init__(
        self, start: Callable[[int], Worker], stall: float, where: str, check: Callable[[], None] = lambda: None
    ) -> None:
        self._stall = stall
        self._check = check
        self._where = where
        self._socket, theirs = socket.socketpair()
        with contextlib.ExitStack() as failed:
            failed.callback(self._socket.close)
            with theirs:
                self._worker = start(theirs.fileno())
            failed.pop_all()
        self._socket.settimeout(stall)
        self._last = time.monotonic()
        self._frames = FrameReader(self._socket.fileno(), self._idle).frames()
        self._deaf = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker, whatever it does."""
        self._worker.kill()
        self._socket.close()

    def frame(self) -> tuple[int, memoryview]:
        """The next one; its body is valid until the next is asked for.

        :raises AlsError: what the worker reports, or that it has ended.
        """
        self._last = time.monotonic()
        found = next(self._frames, None)
        if found is None:
            raise WorkerError("a worker sent nothing more", where=self._where)
        return found

    def data(self, most: int) -> Iterator[bytes]:
        """The DATA frames up to the END.

        :raises LimitExceeded: there are more than `most` bytes.
        """
        size = 0
        while True:
            kind, body = self.frame()
            if kind == END:
                return
            size += len(body)
            if kind != DATA or not body:
                raise WorkerError("a worker broke the protocol", where=self._where)
            if size > most:
                raise LimitExceeded(f"more than {most} bytes", where=self._where)
            yield bytes(body)

    def feed(self, data: bytes) -> None:
        """Send bytes; to one that does not listen any more, none. Why it does not, its next frame says."""
        with memoryview(data) as view:
            for start in range(0, len(view), _PIECE):
                if self._deaf:
                    return
                try:
                    self._socket.sendall(view[start : start + _PIECE])
                except TimeoutError as error:
                    raise self._stalled() from error
                except (BrokenPipeError, ConnectionResetError):
                    self._deaf = True

    def end_of_input(self) -> None:
        """Nothing more will be sent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def _idle(self) -> None:
        self._check()
        if time.monotonic() - self._last > self._stall:
            raise self._stalled()

    def _stalled(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"no progress for {self._stall:.0f} seconds", where=self._where)
