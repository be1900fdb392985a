"""syncfs, reflinks, page cache residency and the question for fs-verity, on real file systems."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.native import files, mounts
from als.native.refusal import Refusal, refusal
from tests.harness.system import run

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def xfs(module_dir: Path) -> Iterator[Path]:
    """A directory on XFS, which can reflink."""
    image, target = module_dir / "xfs.img", module_dir / "xfs"
    with image.open("wb") as file:
        file.truncate(320 << 20)
    run("mkfs.xfs", "-q", image)
    target.mkdir()
    run("mount", "-o", "loop", image, target)
    yield target
    run("umount", target)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    target = tmp_path / "tmpfs"
    target.mkdir()
    mounts.mount("none", target, "tmpfs")
    yield target
    mounts.unmount(target)


def test_syncfs(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x")
        file.flush()
        files.syncfs(file.fileno())
    with pytest.raises(OSError) as caught:
        files.syncfs(-1)
    assert caught.value.errno == errno.EBADF


@pytest.mark.usefixtures("as_root")
def test_reflink_shares_the_blocks(xfs: Path) -> None:
    content = os.urandom(1 << 20)
    (xfs / "source").write_bytes(content)
    with (xfs / "source").open("rb") as source, (xfs / "copy").open("wb") as copy:
        os.fsync(source.fileno())
        before = os.statvfs(xfs).f_bfree
        files.reflink(source.fileno(), copy.fileno())
        os.fsync(copy.fileno())
        after = os.statvfs(xfs).f_bfree
    assert (xfs / "copy").read_bytes() == content
    assert (before - after) * os.statvfs(xfs).f_frsize < len(content) // 4


@pytest.mark.usefixtures("as_root")
def test_reflink_is_refused_where_it_cannot_be(tmpfs: Path) -> None:
    (tmpfs / "source").write_bytes(bytes(PAGE))
    with (tmpfs / "source").open("rb") as source, (tmpfs / "copy").open("wb") as copy, pytest.raises(OSError) as caught:
        files.reflink(source.fileno(), copy.fileno())
    assert refusal(caught.value) is Refusal.UNSUPPORTED


@pytest.mark.parametrize("size", [0, 1, PAGE, 3 * PAGE + 17, 1000 * PAGE])
def test_cached_bytes_follows_the_page_cache(module_dir: Path, size: int) -> None:
    path = module_dir / f"cached-{size}"
    path.write_bytes(os.urandom(size))
    whole = -(-size // PAGE) * PAGE
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        assert files.cached_bytes(file.fileno()) == files.mapped_cached_bytes(file.fileno()) == whole
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert files.cached_bytes(file.fileno()) == files.mapped_cached_bytes(file.fileno()) == 0
        assert len(os.pread(file.fileno(), size, 0)) == size
        assert files.cached_bytes(file.fileno()) == whole


def test_mincore_crosses_its_window(module_dir: Path) -> None:
    path = module_dir / "sparse"
    with path.open("w+b") as file:
        file.truncate(200 << 20)
        for offset in (0, 64 << 20, (128 << 20) - 1, (200 << 20) - 1):
            os.pwrite(file.fileno(), b"x", offset)
        os.fsync(file.fileno())
        assert files.mapped_cached_bytes(file.fileno()) == files.cached_bytes(file.fileno())
        assert files.mapped_cached_bytes(file.fileno()) >= 4 * PAGE


@pytest.mark.usefixtures("as_root")
def test_no_verity_on_tmpfs(tmpfs: Path) -> None:
    (tmpfs / "file").write_bytes(b"x")
    with (tmpfs / "file").open("rb") as file:
        assert not files.can_have_verity(file.fileno())
    with pytest.raises(OSError):
        files.can_have_verity(-1)


def test_many_files_are_written_in_one_go(tmp_path: Path) -> None:
    (tmp_path / "known").write_bytes(b"old")
    wanted = [(f"{tmp_path}/known" if n == 5 else f"{tmp_path}/none", f"{tmp_path}/{n}", b"%d" % n * n) for n in range(300)]
    assert files.write_new_files(wanted, 0o444) == [n == 5 for n in range(300)]
    assert not (tmp_path / "5").exists()
    assert all((tmp_path / str(n)).read_bytes() == b"%d" % n * n for n in range(300) if n != 5)
    assert (tmp_path / "7").stat().st_mode & 0o777 == 0o444
    assert files.write_new_files([], 0o444) == []


def test_the_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"there")
    with pytest.raises(FileExistsError, match=f"{tmp_path}/b"):
        files.write_new_files([("/nowhere", f"{tmp_path}/{name}", b"new") for name in "abc"], 0o444)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "b").read_bytes() == b"there"
    assert not (tmp_path / "c").exists()


def test_many_files_are_linked_in_one_go(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    for n in range(300):
        (tmp_path / str(n)).write_bytes(b"%d" % n)
    (tmp_path / "to" / "5").write_bytes(b"there")
    assert files.link_files([(f"{tmp_path}/{n}", f"{tmp_path}/to/{n}") for n in range(300)]) == [n == 5 for n in range(300)]
    assert all((tmp_path / "to" / str(n)).samefile(tmp_path / str(n)) == (n != 5) for n in range(300))
    assert files.link_files([]) == []


def test_the_file_that_cannot_be_linked_is_named(tmp_path: Path) -> None:
    for name in "ac":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/b.*{tmp_path}/b2"):
        files.link_files([(f"{tmp_path}/{name}", f"{tmp_path}/{name}2") for name in "abc"])
    assert (tmp_path / "a2").exists()
    assert not (tmp_path / "c2").exists()
