"""Work that releases the GIL (system calls, hashing of much at once), done beside whoever has the next of it to prepare."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Beside:
    """A thread that does one thing at a time. To be used by one other thread, and to be closed."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._running: Future[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether the last work is done."""
        return self._running is None or self._running.done()

    def run(self, work: Callable[[], None]) -> None:
        """Begin with `work` once the last one is done; what went wrong with that is raised here."""
        self.wait()
        self._running = self._thread.submit(work)

    def wait(self) -> None:
        """Until it is idle; raises what the last work raised."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """End the thread, after what it is doing now."""
        self._thread.shutdown()
