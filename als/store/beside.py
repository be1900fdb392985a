"""Work that releases the GIL (system calls, hashing of much at once), done beside whoever has the next of it to prepare."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from als.store.objects import Forest

_BATCH_BYTES = 1 << 20
_BATCH_FILES = 256


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


class SmallObjects:
    """Puts small contents into a forest, in batches and beside its user: a fifth less time for a layer of 7,000 files.

    At most two batches of about a MiB are in memory. What cannot be written is raised by a later call.
    """

    def __init__(self, forest: Forest) -> None:
        self._forest = forest
        self._beside = Beside("small objects")
        self._batch: dict[bytes, bytes] = {}
        self._size = 0

    def add(self, data: bytes) -> bytes:
        """Hold an object with this content, soon, and return its sha256.

        :raises OSError: an earlier one could not be written.
        """
        sha256 = hashlib.sha256(data).digest()
        self._batch[sha256] = data
        self._size += len(data)
        if self._size >= _BATCH_BYTES or len(self._batch) >= _BATCH_FILES:
            self._hand_over()
        return sha256

    def settle(self) -> None:
        """Have all in the forest that was added.

        :raises OSError: one could not be written.
        """
        self._hand_over()
        self._beside.wait()

    def close(self) -> None:
        """Nothing is written any more when this returns; what was not settled may be missing."""
        self._beside.close()

    def _hand_over(self) -> None:
        batch, self._batch, self._size = self._batch, {}, 0
        if batch:
            self._beside.run(lambda: self._forest.add_all(batch))
