"""What is done beside the thread that takes a layer apart: hashing and writing, syncing."""

from __future__ import annotations

from pathlib import Path

import pytest

from als.fetch.writeback import Writeback
from als.store.beside import Beside


def test_an_error_is_raised_by_the_next_call_and_only_once() -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    done: list[int] = []
    beside = Beside("test")
    beside.run(fail)
    with pytest.raises(OSError, match="No space left"):
        beside.run(lambda: done.append(1))
    beside.run(lambda: done.append(2))
    beside.wait()
    beside.close()
    assert done == [2]


def test_an_error_of_writing_back_is_not_lost(tmp_path: Path) -> None:
    writeback = Writeback(tmp_path / "missing")
    writeback.reached(1)
    writeback.reached(1 << 30)
    with pytest.raises(FileNotFoundError):
        writeback.settle()
    writeback.close()
