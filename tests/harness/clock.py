"""A wall clock that can be set, for single processes: :file:`clock.c`, compiled and preloaded.

The monotonic clock goes on, as the kernel's does when somebody sets the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.harness.system import run

_SOURCE = Path(__file__).with_suffix(".c")


class Clock:
    """
    :param folder: has the compiled library and the clock's state.
    :ivar environment: what a process needs to go by this clock.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / "clock.so"
        self._state = folder / "offset"
        self.set(0)
        run("gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, _SOURCE)
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library), "ALS_CLOCK": str(self._state)}

    def set(self, seconds: int) -> None:
        """So many seconds later than it is; running processes notice at once."""
        mode = "r+b" if self._state.exists() else "wb"
        with self._state.open(mode) as file:
            file.write(seconds.to_bytes(8, "little", signed=True))
