"""The FUSE connection outlives the daemon: names, open files, reads under way, counts."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.harness.system import mounts_below, wait_until
from tests.restart.conftest import KEY, Kept


def drop_caches() -> None:
    """So that the kernel asks again."""
    Path("/proc/sys/vm/drop_caches").write_text("1")


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """From the daemon, not from the page cache."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return os.pread(descriptor, length, offset)


def test_what_is_open_can_be_read_on(kept: Kept) -> None:
    content = random.Random(1).randbytes(3_000_000)
    path = kept.add_lazy(KEY, content)
    blob = kept.layer(kept.add_layer("layer", content)) / "blob"
    with path.open("rb", buffering=0) as file, blob.open("rb", buffering=0) as other:
        inode, mount = path.stat().st_ino, mounts_below(kept.mountpoint.parent)
        for round_ in range(3):
            kept.kill()
            offset = round_ * 900_000
            assert read_at(file.fileno(), offset, 500_000) == content[offset : offset + 500_000]
            assert read_at(other.fileno(), offset, 500_000) == content[offset : offset + 500_000]
        assert path.stat().st_ino == inode
        assert mounts_below(kept.mountpoint.parent) == mount


def test_a_read_that_was_not_answered_is_answered_by_the_next_daemon(kept: Kept) -> None:
    content = random.Random(2).randbytes(100_000)
    path = kept.add_lazy(KEY, content, gated="")
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as pool:
        with kept.waiting_reads(KEY, 1):
            answer = pool.submit(os.pread, file.fileno(), 100_000, 0)
        kept.behind_lazy(KEY, hashlib.sha256(content).digest()).with_suffix(".gated").unlink()
        kept.kill()
        assert answer.result(30) == content


def test_a_lookup_that_was_not_answered_is_answered_by_the_next_daemon(kept: Kept) -> None:
    digest = kept.add_layer("layer", gated="")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(kept.info(digest).read_bytes)
        wait_until(lambda: len(kept.calls("lookup")) == 1, "the lookup has begun")
        (kept.behind(digest) / "gated").unlink()
        kept.kill()
        assert digest in answer.result(30).decode()


def test_requests_while_nobody_serves_wait(kept: Kept) -> None:
    digest = kept.add_layer("layer")
    content = b"x" * 5000
    path = kept.add_lazy(KEY, content)
    os.kill(kept.pid, signal.SIGKILL)
    with ThreadPoolExecutor(3) as pool:
        answers = pool.submit(kept.info(digest).exists), pool.submit(path.read_bytes), pool.submit(os.statvfs, kept.mountpoint)
        kept.wait_ready()
        assert answers[0].result(30) is True
        assert answers[1].result(30) == content
        assert answers[2].result(30).f_files >= 1


def test_a_long_read_with_kills_in_the_middle(kept: Kept) -> None:
    size, chunk = 128 << 20, 1 << 20
    content = random.Random(3).randbytes(chunk) * (size // chunk)
    path = kept.add_lazy(KEY, content)
    found = hashlib.sha256()
    passed = threading.Semaphore(0)

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            while data := file.read(chunk):
                found.update(data)
                passed.release()

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for _ in range(2):
            for _ in range(20):
                assert passed.acquire(timeout=60)
            kept.kill()
        reader.result(120)
    assert found.digest() == hashlib.sha256(content).digest()


def test_a_new_daemon_does_not_forget_what_the_kernel_still_knows(kept: Kept) -> None:
    files = [kept.add_lazy(KEY, str(number).encode()) for number in range(300)]
    opened = [path.open("rb", buffering=0) for path in files]
    before = os.statvfs(kept.mountpoint).f_files
    kept.kill()
    assert os.statvfs(kept.mountpoint).f_files >= before
    try:
        for number, file in enumerate(opened):
            assert read_at(file.fileno(), 0, 10) == str(number).encode()
    finally:
        for file in opened:
            file.close()

    def nearly_empty() -> bool:
        Path("/proc/sys/vm/drop_caches").write_text("2")
        return os.statvfs(kept.mountpoint).f_files < 10

    wait_until(nearly_empty, "the nodes are gone")


def test_a_restart_on_purpose_is_not_noticed(kept: Kept) -> None:
    content = random.Random(4).randbytes(200_000)
    path = kept.add_lazy(KEY, content, gated="")
    assert kept.process is not None
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as pool:
        with kept.waiting_reads(KEY, 1):
            answer = pool.submit(os.pread, file.fileno(), 200_000, 0)
        kept.behind_lazy(KEY, hashlib.sha256(content).digest()).with_suffix(".gated").unlink()
        before = kept.pid
        kept.process.send_signal(signal.SIGHUP)
        kept.wait_ready()
        assert kept.pid != before
        assert answer.result(30) == content


def test_a_gesture_that_was_not_answered_is_not_lost(kept: Kept) -> None:
    digest = kept.add_layer("layer")
    use = kept.layer(digest) / "use"
    os.kill(kept.pid, signal.SIGKILL)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(use.touch)
        kept.wait_ready()
        assert isinstance(answer.exception(30), FileNotFoundError)
    assert len(kept.calls("use")) == 1


def test_a_connection_that_the_next_daemon_knows_nothing_of_is_made_anew(kept: Kept) -> None:
    content = b"y" * 5000
    path = kept.add_lazy(KEY, content)
    assert path.read_bytes() == content
    (journal,) = kept.folder.glob("als-fuse-*")
    journal.write_bytes(journal.read_bytes().replace(b'"version": 1', b'"version": 9'))
    kept.kill()
    assert len(mounts_below(kept.mountpoint.parent)) == 1
    (after,) = kept.folder.glob("als-fuse-*")
    assert after != journal
    assert path.read_bytes() == content
    assert "cannot be taken over" in kept.log()


def test_a_line_that_was_cut_off_harms_nothing(kept: Kept) -> None:
    content = b"z" * 5000
    path = kept.add_lazy(KEY, content)
    with path.open("rb", buffering=0) as file:
        (journal,) = kept.folder.glob("als-fuse-*")
        os.kill(kept.pid, signal.SIGSTOP)
        with journal.open("ab") as end:
            end.write(b'["+",["lazy fi')
        kept.kill()
        assert read_at(file.fileno(), 0, 5000) == content
    assert "cannot be taken over" not in kept.log()
