"""Work that releases the GIL (system calls, hashing of much at once), done beside whoever has the next of it to prepare."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Beside:
    """A thread that does one thing at a time, in the order given. To be used by one other thread, and to be closed.

    :param ahead: how many works may wait for their turn.
    """

    def __init__(self, name: str, ahead: int = 0) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._ahead = ahead
        self._given: deque[Future[None]] = deque()

    @property
    def idle(self) -> bool:
        """Whether the last work is done."""
        return not self._given or self._given[-1].done()

    def run(self, work: Callable[[], None]) -> None:
        """Have `work` done; waits while too many are before it. What went wrong with those is raised here."""
        self._settle(self._ahead)
        self._given.append(self._thread.submit(work))

    def wait(self) -> None:
        """Until it is idle; raises what an earlier work raised."""
        self._settle(0)

    def close(self) -> None:
        """End the thread, after what it is doing now."""
        self._thread.shutdown(cancel_futures=True)

    def _settle(self, left: int) -> None:
        while len(self._given) > left:
            self._given.popleft().result()
