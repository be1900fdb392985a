"""Loop devices of the real kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from als.native import loop
from tests.harness.system import loops_below, wait_until

pytestmark = pytest.mark.usefixtures("as_root")

CONTENT = bytes(range(256)) * 256


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    path = tmp_path / "backing"
    path.write_bytes(CONTENT)
    return path


@contextmanager
def attached(path: Path, *, direct_io: bool = False) -> Iterator[loop.LoopDevice]:
    with path.open("rb") as file:
        device = loop.attach(file.fileno(), direct_io=direct_io)
    try:
        yield device
    finally:
        device.close()


def detached(path: Path) -> Callable[[], bool]:
    return lambda: not loops_below(path.parent)


@pytest.mark.parametrize("direct_io", [False, True])
def test_shows_the_file_and_goes_by_itself(backing: Path, direct_io: bool) -> None:
    with attached(backing, direct_io=direct_io) as device:
        assert Path(device.path).read_bytes() == CONTENT
        assert loops_below(backing.parent) == [device.path]
    wait_until(detached(backing), "the loop device is detached")


def test_is_read_only(backing: Path) -> None:
    with attached(backing) as device:
        with pytest.raises(OSError), Path(device.path).open("r+b", buffering=0) as block:
            block.write(bytes(512))
        number = Path(device.path).name
        assert Path(f"/sys/block/{number}/ro").read_text() == "1\n"


def test_backing_file_is_known_by_inode(backing: Path) -> None:
    with attached(backing) as device:
        backing.rename(backing.with_name("renamed"))
        status = backing.with_name("renamed").stat()
        assert loop.backing_file(device.path) == (status.st_dev, status.st_ino)


def test_what_is_no_loop_device_has_no_backing_file(backing: Path) -> None:
    assert loop.backing_file(str(backing)) is None
    assert loop.backing_file("/dev/null") is None
    with pytest.raises(FileNotFoundError):
        loop.backing_file("/dev/no-such-device")


def test_many_at_once_get_a_device_each(backing: Path) -> None:
    with backing.open("rb") as file, ThreadPoolExecutor(8) as pool:
        devices = list(pool.map(lambda _: loop.attach(file.fileno()), range(16)))
    paths = {device.path for device in devices}
    for device in devices:
        device.close()
    assert len(paths) == 16
    wait_until(detached(backing), "the loop devices are detached")


def test_what_cannot_back_a_device_is_refused() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError):
            loop.attach(reader)
    finally:
        os.close(reader)
        os.close(writer)
