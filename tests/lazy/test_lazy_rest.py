"""What a layer's stream has beside its files, on a disk that becomes full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.errors import StoreFull
from als.lazy.rest import RestLog
from tests.harness.system import unmount_below

SIZE = 64 << 10


@pytest.fixture
def small_disk(tmp_path: Path, as_root: None) -> Iterator[Path]:
    folder = tmp_path / "fs"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", folder], check=True)
        yield folder
    finally:
        unmount_below(folder)


def test_a_full_disk_is_said_clearly_and_loses_nothing(small_disk: Path) -> None:
    path, filler = small_disk / "rest", small_disk / "filler"
    log = RestLog(path, 3)
    log.add(0, b"first")
    filler.write_bytes(bytes(SIZE - 2 * 4096))
    with pytest.raises(StoreFull, match="no space left") as caught:
        log.add(1, bytes(SIZE // 2))
    assert caught.value.where == str(path)
    assert (log.has(0), log.has(1)) == (True, False)
    filler.unlink()
    log.add(2, b"third")
    log.add(1, b"second")
    log.close()
    again = RestLog(path, 3)
    assert [again.get(number) for number in range(3)] == [b"first", b"second", b"third"]
    again.close()
