"""Records and locks, between threads and processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from als.errors import LockTimeout, StoreDamaged
from als.store.atomic import read_json, write_atomically, write_json
from als.store.layout import Layout
from als.store.lock import locked
from als.store.uses import Use, Uses


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "root")
    made.create()
    return made


def test_counts_survive_many_hands(layout: Layout) -> None:
    """Four threads and two processes change one count at the same time; none of the changes is lost."""
    change = "import sys; from pathlib import Path; from als.store.layout import Layout; from als.store.uses import Uses\n"
    change += "for _ in range(20): Uses(Layout(Path(sys.argv[1]))).change('r', 'd', 1)"
    processes = [subprocess.Popen([sys.executable, "-c", change, layout.root]) for _ in range(2)]

    def many() -> None:
        for _ in range(10):
            Uses(layout).change("r", "d", 1)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in processes] == [0, 0]
    assert Uses(layout).all() == [Use("r", "d", 80)]


def test_a_count_never_falls_below_nothing(layout: Layout) -> None:
    uses = Uses(layout)
    assert uses.change("r", "d", -1) == 0
    assert uses.change("r", "d", 1) == 1
    assert uses.change("r", "other", 1) == 1
    assert uses.change("r", "d", -1) == 0
    assert uses.all() == [Use("r", "other", 1)]
    assert len(list(layout.uses.iterdir())) == 1


def test_a_count_that_is_dropped_while_all_are_read(layout: Layout) -> None:
    uses = Uses(layout)
    assert uses.change("r", "d", 1) == 1
    # A name that is listed and cannot be opened any more: what somebody finds who lists just before another one drops it.
    (layout.uses / ("0" * 64 + ".json")).symlink_to("gone")
    assert uses.all() == [Use("r", "d", 1)]


def test_shared_and_exclusive_exclude_each_other_within_a_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    shared = locked(path, exclusive=False)
    with shared, locked(path, exclusive=False, timeout=0), pytest.raises(LockTimeout), locked(path, timeout=0.05):
        pytest.fail("both held it")
    with locked(path, timeout=0):
        pass


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    hold = "import sys, os; from pathlib import Path; from als.store.lock import locked\n"
    hold += "with locked(Path(sys.argv[1])):\n print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(LockTimeout, match="another process"), locked(path, timeout=0.05):
            pytest.fail("both held it")
        process.kill()
        process.wait(10)
        with locked(path, timeout=10):
            pass


def test_giving_up(tmp_path: Path) -> None:
    again = locked(tmp_path / "lock", timeout=None, give_up=lambda: True)
    with locked(tmp_path / "lock"), pytest.raises(LockTimeout), again:
        pytest.fail("both held it")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "record"
    write_json(path, {"a": 1})
    not_bytes: Any = "text"
    with pytest.raises(TypeError):
        write_atomically(path, not_bytes)
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["record"]


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff"])
def test_a_damaged_record_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "record").write_bytes(data)
    with pytest.raises(StoreDamaged, match="record"):
        read_json(tmp_path / "record")
