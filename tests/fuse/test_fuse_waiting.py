"""Slow and hanging backends: who has to wait, who must not, and for how long."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.conftest import Daemon, digest_of
from tests.harness.system import run, wait_until


@contextmanager
def open_gate(daemon: Daemon) -> Iterator[None]:
    """Whoever waits at the backend's gate, or comes there, passes."""
    gate = daemon.open_gate()
    try:
        yield
    finally:
        os.close(gate)


def inode_of(path: Path) -> int:
    return path.stat().st_ino


@contextmanager
def asking(daemon: Daemon, *paths: Path) -> Iterator[list[Future[int]]]:
    """Stat each path in a thread of its own."""
    with ThreadPoolExecutor(len(paths)) as pool:
        try:
            yield [pool.submit(inode_of, path) for path in paths]
        finally:
            with open_gate(daemon):
                pool.shutdown()


def seconds_of_stat(path: Path) -> float:
    before = time.monotonic()
    path.stat()
    return time.monotonic() - before


@contextmanager
def fusectl(folder: Path) -> Iterator[Path]:
    """The kernel's view of its FUSE connections."""
    folder.mkdir()
    run("mount", "-t", "fusectl", "fusectl", folder)
    try:
        yield folder
    finally:
        run("umount", folder)


def test_a_hundred_slow_lookups_hold_up_nobody(daemon: Daemon) -> None:
    quick = daemon.add_layer("quick")
    other = daemon.add_layer("other")
    daemon.info(quick).stat()
    slow = [daemon.add_layer(number, gated="") for number in range(100)]
    with asking(daemon, *(daemon.info(digest) for digest in slow)) as answers:
        wait_until(lambda: len(daemon.calls("lookup")) == 101, "all lookups have begun")
        assert seconds_of_stat(daemon.mountpoint) < 1
        assert seconds_of_stat(daemon.info(quick)) < 1
        assert seconds_of_stat(daemon.info(other)) < 1
        assert sorted(os.listdir(daemon.layer(quick).parent)) == sorted([quick, other])
        with pytest.raises(FileNotFoundError):
            os.close(os.open(daemon.layer(quick) / "use", os.O_CREAT | os.O_RDWR))
        assert len(daemon.calls("use")) == 1
        assert not any(answer.done() for answer in answers)
        with open_gate(daemon):
            assert len({answer.result(30) for answer in answers}) == 100


def test_simultaneous_lookups_of_one_layer_are_one_call(daemon: Daemon, tmp_path: Path) -> None:
    digest = daemon.add_layer("layer")
    path = daemon.info(digest)
    path.stat()
    # Known to the kernel, so that each walk asks us for itself once the second is over in which it need not.
    gated = daemon.behind(digest) / "gated"
    gated.touch()
    before = len(daemon.calls("lookup"))

    def stat_until_it_waits() -> int:
        while len(daemon.calls("lookup")) == before:
            path.stat()
        return path.stat().st_ino

    connection = str(os.minor(daemon.mountpoint.stat().st_dev))
    with fusectl(tmp_path / "connections") as connections, ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(stat_until_it_waits) for _ in range(20)]
        wait_until(lambda: len(daemon.calls("lookup")) > before, "a lookup has begun")
        wait_until(lambda: int((connections / connection / "waiting").read_text()) == 20, "all wait for an answer")
        gated.unlink()
        assert len(daemon.calls("lookup")) == before + 1
        with open_gate(daemon):
            assert len({answer.result(30) for answer in answers}) == 1


def test_a_lookup_that_hangs_is_absent_after_the_deadline(stopped_daemon: Daemon) -> None:
    daemon = stopped_daemon
    daemon.start("--deadline", "1")
    digest = daemon.add_layer("layer", gated="")
    with pytest.raises(FileNotFoundError):
        daemon.info(digest).stat()
    assert "no answer within 1 s" in daemon.log()
    assert digest in daemon.log()
    # A later lookup is a new call, although the first still hangs.
    (daemon.behind(digest) / "gated").unlink()
    assert daemon.info(digest).exists()


def test_a_read_that_hangs_fails_after_the_deadline(stopped_daemon: Daemon) -> None:
    daemon = stopped_daemon
    daemon.start("--deadline", "1")
    digest = daemon.add_layer("layer", blob=b"x" * 1000, gated_blob="")
    path = daemon.layer(digest) / "blob"
    with path.open("rb", buffering=0) as file:
        with pytest.raises(OSError) as caught:
            file.read(10)
        assert caught.value.errno in (errno.EIO, errno.ETIMEDOUT)
        (daemon.behind(digest) / "gated-blob").unlink()
        assert file.read(10) == b"x" * 10
        with open_gate(daemon):
            wait_until(lambda: len(daemon.calls("close")) == len(daemon.calls("read")), "what hung is closed")
    wait_until(lambda: len(daemon.calls("close")) == len(daemon.calls("open_blob")), "the file is closed")


def test_beyond_the_most_that_may_wait_names_are_absent_at_once(stopped_daemon: Daemon) -> None:
    daemon = stopped_daemon
    daemon.start("--max-waiting", "8")
    slow = [daemon.add_layer(number, gated="") for number in range(8)]
    with asking(daemon, *(daemon.info(digest) for digest in slow)) as answers:
        wait_until(lambda: len(daemon.calls("lookup")) == 8, "all lookups have begun")
        with pytest.raises(FileNotFoundError):
            daemon.info(daemon.add_layer("one more")).stat()
        assert seconds_of_stat(daemon.mountpoint) < 1
        with open_gate(daemon):
            assert len({answer.result(30) for answer in answers}) == 8
    assert "8 requests are waiting already" in daemon.log()
    assert daemon.info(digest_of("one more")).exists()


def test_a_killed_client_need_not_wait_and_the_lookup_goes_on(daemon: Daemon) -> None:
    digest = daemon.add_layer("layer", gated="")
    client = subprocess.Popen([sys.executable, "-c", "import os,sys; os.stat(sys.argv[1])", daemon.info(digest)])
    wait_until(lambda: len(daemon.calls("lookup")) == 1, "the lookup has begun")
    client.send_signal(signal.SIGKILL)
    assert client.wait(20) == -signal.SIGKILL
    with asking(daemon, daemon.info(digest)) as (answer,):
        assert not answer.done()
        with open_gate(daemon):
            answer.result(30)
    assert len(daemon.calls("lookup")) == 1


def test_parallel_readers_of_different_blobs_do_not_wait_for_each_other(daemon: Daemon) -> None:
    slow = daemon.layer(daemon.add_layer("slow", blob=b"s" * 10, gated_blob="")) / "blob"
    quick = daemon.layer(daemon.add_layer("quick", blob=b"q" * 10)) / "blob"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(slow.read_bytes)
        wait_until(lambda: len(daemon.calls("read")) == 1, "the slow read has begun")
        assert quick.read_bytes() == b"q" * 10
        assert not answer.done()
        with open_gate(daemon):
            assert answer.result(30) == b"s" * 10
