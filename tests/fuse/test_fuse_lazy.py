"""Files of lazy layers, through a real mount: names, bytes, page cache, and who has to wait."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from als.model.forest import forest_path
from tests.fuse.conftest import Daemon, digest_of
from tests.harness.system import mounts_below, wait_until

ONE, TWO = "1" * 64, "2" * 64
PAGE = 4096


def pread(path: Path, length: int, offset: int) -> bytes:
    """Read without a buffer of Python's."""
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), length, offset)


def errno_of_read(path: Path, offset: int = 0, length: int = 10) -> int:
    """The errno with which a read fails."""
    with pytest.raises(OSError) as caught:
        pread(path, length, offset)
    assert caught.value.errno is not None
    return caught.value.errno


def test_a_file_has_its_bytes_at_any_offset(daemon: Daemon) -> None:
    chance = random.Random(1)
    content = chance.randbytes(3_000_001)
    path = daemon.add_lazy(ONE, content)
    for _ in range(200):
        offset, length = chance.randrange(3_100_000), chance.randrange(1, 300_000)
        assert pread(path, length, offset) == content[offset : offset + length]
    assert path.read_bytes() == content


def test_attributes_and_listings(daemon: Daemon) -> None:
    path = daemon.add_lazy(ONE, b"x" * 1000)
    found = path.lstat()
    assert (found.st_mode, found.st_size, found.st_nlink, found.st_uid) == (0o100444, 1000, 1, 0)
    for directory in (path.parent, daemon.lazy(ONE), daemon.lazy(ONE).parent):
        assert directory.is_dir()
        assert os.listdir(directory) == []
    assert os.listdir(daemon.mountpoint) == []
    with pytest.raises(OSError) as caught:
        os.open(path, os.O_RDWR)
    assert caught.value.errno == errno.EROFS


def test_what_is_not_there_may_come(daemon: Daemon) -> None:
    content = b"content"
    path = daemon.lazy(ONE) / forest_path(hashlib.sha256(content).digest())
    assert not daemon.lazy(ONE).exists()
    assert not path.exists()
    daemon.add_lazy(ONE, b"another")
    assert daemon.lazy(ONE).exists()
    assert not path.exists()
    assert daemon.add_lazy(ONE, content) == path
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["1", "1" * 63, "1" * 65, "A" * 64, "g" * 64, f"{'1' * 63}\n"])
def test_other_names_are_absent(daemon: Daemon, name: str) -> None:
    path = daemon.add_lazy(ONE, b"content")
    for absent in (daemon.mountpoint / ".lazy" / name, path.parent / name, daemon.lazy(ONE) / name, path.parent.parent / "als"):
        assert not absent.exists()


def test_one_content_in_two_layers_is_one_inode_and_read_once(daemon: Daemon) -> None:
    content = random.Random(2).randbytes(500_000)
    one, two = daemon.add_lazy(ONE, content), daemon.add_lazy(TWO, content)
    assert one.stat().st_ino == two.stat().st_ino
    assert one.read_bytes() == content
    reads = daemon.calls("lazy-read")
    assert two.read_bytes() == content
    assert one.read_bytes() == content
    assert daemon.calls("lazy-read") == reads


def test_a_name_alone_shares_nothing(daemon: Daemon) -> None:
    """Whoever wrote an index can say of any bytes that they have the sha256 of another image's file."""
    name = hashlib.sha256(b"honest").digest()
    honest, liar, longer = b"honest", b"lying!", b"lying and longer"
    paths = [daemon.add_lazy(key, content, name) for key, content in ((ONE, honest), (TWO, liar), ("3" * 64, longer))]
    assert len({path.stat().st_ino for path in paths}) == 3
    assert [path.read_bytes() for path in paths * 2] == [honest, liar, longer] * 2


def test_a_file_is_read_from_whichever_layer_is_left(daemon: Daemon) -> None:
    content = random.Random(3).randbytes(1000 * PAGE)
    path = daemon.add_lazy(ONE, content)
    other = daemon.add_lazy(TWO, content)
    with path.open("rb", buffering=0) as file:
        other.stat()
        for number, gone in ((200, TWO), (400, ONE)):
            assert os.pread(file.fileno(), PAGE, number * PAGE) == content[number * PAGE :][:PAGE]
            (daemon.folder / "lazy" / gone).rename(daemon.folder / gone)
        assert errno_of_read(Path(f"/proc/self/fd/{file.fileno()}"), 800 * PAGE) == errno.EIO
    assert [call.split()[1] for call in daemon.calls("lazy-read")] == [TWO, ONE]
    assert "no layer that has it is served any more" in daemon.log()


def test_an_error_is_eio_and_not_remembered(daemon: Daemon) -> None:
    path = daemon.add_lazy(ONE, b"content", error="registry.example answered 503 to bytes=0-6")
    assert errno_of_read(path) == errno.EIO
    assert "reading bytes 0 to 6 of .lazy/1111" in daemon.log()
    assert "registry.example answered 503 to bytes=0-6" in daemon.log()
    daemon.behind_lazy(ONE, hashlib.sha256(b"content").digest()).with_suffix(".error").unlink()
    assert path.read_bytes() == b"content"


def test_a_short_answer_is_an_error(daemon: Daemon) -> None:
    path = daemon.add_lazy(ONE, b"content", short="")
    assert errno_of_read(path) == errno.EIO
    assert "6 bytes instead of 7 at 0" in daemon.log()


def test_a_read_that_hangs_fails_after_one_deadline(stopped_daemon: Daemon) -> None:
    daemon = stopped_daemon
    daemon.start("--deadline", "2")
    path = daemon.add_lazy(ONE, b"content", gated="")
    before = time.monotonic()
    assert errno_of_read(path) == errno.EIO
    assert time.monotonic() - before < 3.5
    # The kernel asked more than once before it passed the error on.
    assert len(daemon.calls("lazy-read")) == 1
    assert daemon.log().count("no answer within 2 s") == 1
    daemon.behind_lazy(ONE, hashlib.sha256(b"content").digest()).with_suffix(".gated").unlink()

    def has_content() -> bool:
        try:
            return path.read_bytes() == b"content"
        except OSError:
            return False

    wait_until(has_content, "the file can be read", 5)


def test_a_page_fault_that_hangs_is_a_bus_error_after_one_deadline(stopped_daemon: Daemon) -> None:
    daemon = stopped_daemon
    daemon.start("--deadline", "2")
    path = daemon.add_lazy(ONE, b"x" * (1 << 20), gated="")
    script = "import mmap,sys; f = open(sys.argv[1], 'rb'); mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[1 << 19]"
    before = time.monotonic()
    assert subprocess.run([sys.executable, "-c", script, path], timeout=30).returncode == -signal.SIGBUS
    assert time.monotonic() - before < 3.5
    assert len(daemon.calls("lazy-read")) == 1


def test_a_thousand_readers_wait_and_nobody_else(daemon: Daemon) -> None:
    content = random.Random(4).randbytes(1000 * 8 * PAGE)
    slow = daemon.add_lazy(ONE, content, gated="")
    quick = daemon.add_lazy(TWO, b"quick")
    with slow.open("rb", buffering=0) as file, ThreadPoolExecutor(1000) as pool:

        def read(number: int) -> bytes:
            # Apart from each other, so that nothing is read ahead.
            return os.pread(file.fileno(), 10, number * 8 * PAGE)

        answers = [pool.submit(read, number) for number in range(1000)]
        try:
            wait_until(lambda: len(daemon.calls("lazy-read")) == 1000, "all were asked for")
            before = time.monotonic()
            os.statvfs(daemon.mountpoint)
            assert quick.read_bytes() == b"quick"
            assert not daemon.info(digest_of("absent")).exists()
            assert time.monotonic() - before < 1
            assert not any(answer.done() for answer in answers)
        finally:
            daemon.answer_lazy_reads()
        assert [answer.result(30) for answer in answers] == [content[n * 8 * PAGE :][:10] for n in range(1000)]


def test_files_that_are_read_ahead_do_not_wait_for_each_other(daemon: Daemon) -> None:
    """The kernel would send twelve such reads and no more (als.fuse.connection)."""
    chance = random.Random(5)
    contents = [chance.randbytes(100_000) for _ in range(60)]
    paths = [daemon.add_lazy(ONE, content, gated="") for content in contents]
    quick = daemon.add_lazy(TWO, contents[0][::-1])
    with ThreadPoolExecutor(60) as pool:
        answers = [pool.submit(path.read_bytes) for path in paths]
        try:
            wait_until(lambda: len(daemon.calls("lazy-read")) >= 60, "all were asked for")
            assert quick.read_bytes() == contents[0][::-1]
        finally:
            for gated in (daemon.folder / "lazy" / ONE).glob("*.gated"):
                gated.unlink()
            daemon.answer_lazy_reads()
        assert [answer.result(30) for answer in answers] == contents


def test_beyond_the_most_that_may_wait_reads_fail_at_once(stopped_daemon: Daemon) -> None:
    daemon = stopped_daemon
    daemon.start("--max-lazy-reads", "4")
    paths = [daemon.add_lazy(ONE, b"content %d" % number, gated="") for number in range(5)]
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(pread, path, 9, 0) for path in paths[:4]]
        wait_until(lambda: len(daemon.calls("lazy-read")) == 4, "four wait")
        assert errno_of_read(paths[4]) == errno.EIO
        daemon.answer_lazy_reads()
        assert [answer.result(30) for answer in answers] == [b"content %d" % number for number in range(4)]
    assert "4 reads of lazy files are waiting already" in daemon.log()


def test_who_waits_when_it_stops_is_answered(daemon: Daemon) -> None:
    paths = [daemon.add_lazy(ONE, b"content %d" % number, gated="") for number in range(20)]
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(errno_of_read, path) for path in paths]
        wait_until(lambda: len(daemon.calls("lazy-read")) == 20, "all wait")
        assert daemon.stop() == 0
        assert {answer.result(20) for answer in answers} <= {errno.EIO, errno.ENOTCONN, errno.ECONNABORTED}
    assert mounts_below(daemon.mountpoint) == []


def test_a_killed_reader_need_not_wait(daemon: Daemon) -> None:
    path = daemon.add_lazy(ONE, b"content", gated="")
    reader = subprocess.Popen(["cat", path])
    wait_until(lambda: len(daemon.calls("lazy-read")) == 1, "it waits")
    reader.kill()
    assert reader.wait(10) == -signal.SIGKILL
    daemon.answer_lazy_reads()
