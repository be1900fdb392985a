"""Stores of other versions than today's."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from als.errors import LockTimeout, StoreError
from als.store.layout import Layout
from als.store.lock import locked
from als.store.migrations import STEPS, VERSION, Step, bring_up


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Layout(tmp_path / "a").create()
    return tmp_path / "a"


def set_version(root: Path, text: str) -> None:
    (root / "version").write_text(text)


def version(root: Path) -> str:
    return (root / "version").read_text()


class Steps:
    """From version 1 to 3; each leaves a file, and can be cut short."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.fails = 0
        self.table: dict[int, Step] = {1: lambda root: self._step(root, 1), 2: lambda root: self._step(root, 2)}

    def _step(self, root: Path, number: int) -> None:
        self.ran.append(number)
        (root / f"by-{number}").write_text("half")
        if self.fails == number:
            raise KeyboardInterrupt
        with pytest.raises(LockTimeout), locked(root / "lock", exclusive=False, timeout=0):
            pass
        (root / f"by-{number}").write_text("whole")


def test_there_is_a_way_from_every_version() -> None:
    assert set(STEPS) == set(range(1, VERSION))


def test_a_new_store_is_of_the_current_version(root: Path) -> None:
    assert version(root) == f"{VERSION}\n"
    set_version(root, "")
    Layout(root).create()
    assert version(root) == f"{VERSION}\n", "the power failed when it was made"


@pytest.mark.parametrize("text", [f"{VERSION + 1}\n", "0\n", "-1\n", "one\n", "\xff"])
def test_a_version_that_is_not_known_is_refused(root: Path, text: str) -> None:
    set_version(root, text)
    with pytest.raises(StoreError, match=f"layout version .*, this als knows {VERSION}") as caught:
        Layout(root).create()
    assert caught.value.where == str(root) and caught.value.hint
    assert version(root) == text


def test_steps_are_taken_in_their_order_and_once(root: Path) -> None:
    set_version(root, "1\n")
    steps = Steps()
    for _ in range(2):
        bring_up(root, steps.table, 3)
        assert (version(root), steps.ran) == ("3\n", [1, 2])
    assert [(root / f"by-{number}").read_text() for number in (1, 2)] == ["whole", "whole"]


@pytest.mark.parametrize("number", [1, 2])
def test_a_step_that_was_cut_short_is_taken_again(root: Path, number: int) -> None:
    set_version(root, "1\n")
    steps = Steps()
    steps.fails = number
    with pytest.raises(KeyboardInterrupt):
        bring_up(root, steps.table, 3)
    assert version(root) == f"{number}\n"
    steps.fails, steps.ran = 0, []
    bring_up(root, steps.table, 3)
    assert (version(root), steps.ran) == ("3\n", [1, 2][number - 1 :])
    assert (root / f"by-{number}").read_text() == "whole"


def test_a_disk_that_refuses_a_step(root: Path) -> None:
    def refused(root: Path) -> None:
        (root / "no such folder" / "file").write_text("")

    set_version(root, "1\n")
    with pytest.raises(StoreError) as caught:
        bring_up(root, {1: refused}, 2)
    assert str(root) in str(caught.value)
    assert version(root) == "1\n"


def test_one_of_many_takes_the_steps(root: Path) -> None:
    set_version(root, "1\n")
    steps = Steps()
    threads = [threading.Thread(target=bring_up, args=(root, steps.table, 3)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (version(root), steps.ran) == ("3\n", [1, 2])
