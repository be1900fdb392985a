"""What a client of the protocol does, through a real mount."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuse.conftest import REFERENCE, Daemon, digest_of
from tests.harness.system import wait_until


def errno_of(function: Callable[..., object], *arguments: object) -> int:
    """The errno with which a call fails."""
    with pytest.raises(OSError) as caught:
        function(*arguments)
    assert caught.value.errno is not None
    return caught.value.errno


def create(path: Path) -> None:
    """As Go's os.Create does."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666))


def test_the_whole_sequence_of_a_pull(daemon: Daemon, tmp_path: Path) -> None:
    digest = daemon.add_layer("layer")
    layer = daemon.layer(digest)
    for name in ("diff", "info", "blob"):
        assert os.access(layer / name, os.F_OK)
    assert errno_of(create, layer / "use") == errno.ENOENT
    for _ in range(2):
        assert json.loads((layer / "info").read_bytes())["compressed-diff-digest"] == digest
    assert errno_of(create, layer / "use") == errno.ENOENT
    link = tmp_path / "diff"
    link.symlink_to(layer / "diff")
    assert (link / "hello").read_text() == "layer"
    assert link.resolve() == daemon.behind(digest) / "diff"
    assert errno_of(os.rmdir, layer) == errno.ENOENT
    assert [call for call in daemon.calls() if not call.startswith("lookup")] == [
        f"use {REFERENCE} {digest}",
        f"use {REFERENCE} {digest}",
        f"release {REFERENCE} {digest}",
    ]
    assert os.access(layer / "diff", os.F_OK)


def test_mknod_takes_a_reference_as_well(daemon: Daemon) -> None:
    digest = daemon.add_layer("layer")
    assert errno_of(os.mknod, daemon.layer(digest) / "use", stat.S_IFREG | 0o644) == errno.ENOENT
    assert daemon.calls("use") == [f"use {REFERENCE} {digest}"]


def test_attributes(daemon: Daemon) -> None:
    digest = daemon.add_layer("layer", blob=b"x" * 1000)
    layer = daemon.layer(digest)
    seen = {name: (layer / name).lstat() for name in ("", "diff", "info", "blob")}
    assert {name: stat.filemode(found.st_mode) for name, found in seen.items()} == {
        "": "drwxr-xr-x",
        "diff": "lrwxrwxrwx",
        "info": "-r--r--r--",
        "blob": "-r--r--r--",
    }
    assert {(found.st_uid, found.st_gid, found.st_mtime) for found in seen.values()} == {(0, 0, 0)}
    assert seen["blob"].st_size == 1000
    assert seen["info"].st_size == len((layer / "info").read_bytes())
    assert seen["diff"].st_size == len(str((layer / "diff").readlink()))
    assert os.listxattr(layer) == []
    assert errno_of(os.getxattr, layer, "trusted.overlay.opaque") == errno.ENODATA
    assert os.statvfs(layer).f_namemax == 1024


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (1, 4095), (4095, 2), (131_071, 262_147), (3_999_999, 1), (3_999_000, 5000), (4_000_000, 1), (9_000_000, 10)],
)
def test_a_blob_reads_right_at_any_offset(daemon: Daemon, offset: int, length: int) -> None:
    blob = random.Random(1).randbytes(4_000_000)
    path = daemon.layer(daemon.add_layer("layer", blob=blob)) / "blob"
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), length, offset) == blob[offset : offset + length]


def test_a_blob_is_opened_once_for_all_and_closed_after_the_last(daemon: Daemon) -> None:
    blob = random.Random(2).randbytes(1_000_000)
    path = daemon.layer(daemon.add_layer("layer", blob=blob)) / "blob"
    with path.open("rb") as one, path.open("rb") as two:
        one.seek(500_000)
        assert two.read() == blob
        assert one.read() == blob[500_000:]
        assert daemon.calls("close") == []
    assert len(daemon.calls("open_blob")) == 1
    assert path.read_bytes() == blob
    assert len(daemon.calls("open_blob")) == 2


def test_listings_show_what_was_found(daemon: Daemon) -> None:
    found, absent = daemon.add_layer("found"), digest_of("absent")
    assert os.listdir(daemon.mountpoint) == []
    reference = daemon.layer(found).parent
    assert os.listdir(reference) == []
    assert errno_of(os.stat, daemon.info(absent)) == errno.ENOENT
    assert os.listdir(daemon.layer(absent)) == []
    assert daemon.info(found).exists()
    assert sorted(os.listdir(daemon.layer(found))) == ["blob", "diff", "info"]
    assert os.listdir(reference) == [found]
    assert os.listdir(daemon.mountpoint) == [reference.name]


def test_every_other_name_is_absent(daemon: Daemon) -> None:
    digest = daemon.add_layer("layer")
    chance = random.Random(3)
    letters = "abcXYZ019+=-_.:@%*\\ \n\u00e9"
    places = [daemon.mountpoint, daemon.layer(digest)]
    for _ in range(1000):
        name = "".join(chance.choices(letters, k=chance.randrange(3, 200))) + "!"
        assert errno_of(os.stat, chance.choice(places) / name) == errno.ENOENT
        assert errno_of(os.stat, daemon.layer(digest).parent / name) == errno.ENOENT
    assert errno_of(os.stat, daemon.layer(digest) / "use") == errno.ENOENT
    assert daemon.calls("lookup") == []


def test_a_layer_is_not_mixed_up_with_that_of_another_reference(daemon: Daemon) -> None:
    digest = daemon.add_layer("layer")
    assert errno_of(os.stat, daemon.info(digest, "registry.example/other:1")) == errno.ENOENT
    assert daemon.info(digest).stat().st_ino != daemon.info(daemon.add_layer("other")).stat().st_ino


def test_a_failure_is_logged_with_its_cause_and_not_remembered(daemon: Daemon) -> None:
    digest = daemon.add_layer("layer", error="registry says 503")
    assert errno_of(os.stat, daemon.info(digest)) == errno.ENOENT
    (line,) = [line for line in daemon.log().splitlines() if "503" in line]
    assert line.startswith("WARNING")
    assert REFERENCE in line
    assert digest in line
    (daemon.behind(digest) / "error").unlink()
    assert daemon.info(digest).exists()


def test_a_layer_that_the_backend_gives_up_disappears(daemon: Daemon) -> None:
    digest = daemon.add_layer("layer")
    assert daemon.info(digest).exists()
    (daemon.behind(digest) / "diff").rename(daemon.behind(digest) / "gone")
    # The kernel may answer for a second from what it knows.
    wait_until(lambda: not daemon.info(digest).exists(), "the layer is gone")
    assert os.listdir(daemon.layer(digest).parent) == []


def test_dropping_a_reference_looks_up_nothing(daemon: Daemon) -> None:
    digest = digest_of("gone long ago")
    assert errno_of(os.rmdir, daemon.layer(digest)) == errno.ENOENT
    assert errno_of(create, daemon.layer(digest) / "use") == errno.ENOENT
    assert daemon.calls() == [f"release {REFERENCE} {digest}", f"use {REFERENCE} {digest}"]


def test_nothing_else_can_be_changed(daemon: Daemon) -> None:
    digest = daemon.add_layer("layer")
    layer = daemon.layer(digest)
    info = layer / "info"
    assert errno_of(create, layer / "used") == errno.EROFS
    assert errno_of(create, daemon.mountpoint / "use") == errno.EROFS
    assert errno_of(os.mkdir, layer / "use") == errno.EROFS
    assert errno_of(os.symlink, "x", layer / "link") == errno.EROFS
    assert errno_of(os.link, info, layer / "link") == errno.EROFS
    assert errno_of(os.rename, info, layer / "moved") == errno.EROFS
    assert errno_of(os.unlink, info) == errno.EROFS
    assert errno_of(os.chmod, info, 0o600) == errno.EROFS
    assert errno_of(os.truncate, info, 0) == errno.EROFS
    assert errno_of(os.open, info, os.O_WRONLY) == errno.EROFS
    assert errno_of(os.setxattr, info, "trusted.x", b"1") == errno.EROFS
    assert errno_of(os.rmdir, layer.parent) == errno.EROFS
    assert daemon.calls("use") == daemon.calls("release") == []


def test_a_blob_that_cannot_be_read_is_an_error_and_never_zeros(daemon: Daemon) -> None:
    digest = daemon.add_layer("layer", blob=b"x" * 100_000, broken="")
    path = daemon.layer(digest) / "blob"
    with path.open("rb", buffering=0) as file:
        # The kernel makes EIO of whatever a read through the page cache failed with.
        assert errno_of(file.read, 10) in (errno.EIO, errno.EHOSTUNREACH)
    assert "connection reset" in daemon.log()
    (daemon.behind(digest) / "broken").unlink()
    assert path.read_bytes() == b"x" * 100_000


def test_a_blob_of_another_size_than_promised_is_an_error(daemon: Daemon) -> None:
    digest = daemon.add_layer("layer", blob=b"x" * 1000)
    path = daemon.layer(digest) / "blob"
    assert path.stat().st_size == 1000
    (daemon.behind(digest) / "blob").write_bytes(b"x" * 900)
    assert errno_of(os.open, path, os.O_RDONLY) == errno.EIO
    assert "900 bytes instead of 1000" in daemon.log()


def test_others_than_root_see_nothing(daemon: Daemon) -> None:
    layer = daemon.layer(daemon.add_layer("layer"))
    assert layer.exists()
    child = os.fork()
    if not child:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            daemon.mountpoint.stat()
        except PermissionError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
