"""What is done beside the thread that takes a layer apart: hashing and writing, syncing."""

from __future__ import annotations

from pathlib import Path
from threading import Event

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


def test_what_comes_after_a_sync_is_done_before_it_is_settled(tmp_path: Path) -> None:
    writeback = Writeback(tmp_path)
    done: list[str] = []
    writeback.begin(lambda: done.append("named"))
    writeback.settle()
    writeback.close()
    assert done == ["named"]


def test_one_work_may_wait_for_its_turn_and_no_more() -> None:
    beside = Beside("test", ahead=1)
    gate = Event()
    done: list[bool] = []
    beside.run(lambda: done.append(gate.wait(60)))
    beside.run(lambda: done.append(False))
    assert done == []
    gate.set()
    beside.run(lambda: None)
    assert done[0] is True
    beside.wait()
    beside.close()
    assert done == [True, False]


def test_a_failure_is_found_whatever_came_after_it() -> None:
    def fail() -> None:
        raise OSError(5, "Input/output error")

    beside = Beside("test", ahead=1)
    beside.run(fail)
    beside.run(lambda: None)
    with pytest.raises(OSError, match="Input/output"):
        beside.wait()
    beside.close()
