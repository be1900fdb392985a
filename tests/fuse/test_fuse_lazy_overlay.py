"""Lazy layers as lower directories of overlay: the mounts that a lazy layer and its containers have."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from als.model.forest import forest_path
from tests.fuse.conftest import Daemon
from tests.harness.system import run

KEY = "1" * 64
CONTENT = random.Random(1).randbytes(300_000)
ECHO = Path("/bin/echo").resolve()

Overlay = Callable[[str], Path]


@pytest.fixture
def overlay(daemon: Daemon, tmp_path: Path) -> Iterator[Overlay]:
    """Mounts an overlay with the options that it is given; unmounted again before the daemon ends."""
    with ExitStack() as mounted:

        def mount(options: str) -> Path:
            target = tmp_path / f"overlay{len(os.listdir(tmp_path))}"
            target.mkdir()
            run("mount", "-t", "overlay", "overlay", "-o", options, target)
            mounted.callback(run, "umount", target)
            return target

        yield mount


def metadata_of(folder: Path, files: dict[str, bytes]) -> None:
    """Files without data, which overlay looks for below `folder`, in the forest of the layers below."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, len(content))
        path.chmod(0o755)
        os.setxattr(path, "trusted.overlay.metacopy", b"")
        os.setxattr(path, "trusted.overlay.redirect", f"/{forest_path(hashlib.sha256(content).digest())}".encode())


def test_what_is_here_covers_what_is_not(daemon: Daemon, overlay: Overlay, tmp_path: Path) -> None:
    here, both, rest = b"here", b"in both", b"not here"
    forest = tmp_path / "forest"
    (forest / ".als").mkdir(parents=True)
    for content in (here, both):
        (forest / forest_path(hashlib.sha256(content).digest())).write_bytes(content)
    daemon.add_lazy(KEY, both, error="to be read natively")
    daemon.add_lazy(KEY, rest)
    merged = overlay(f"ro,lowerdir={forest}:{daemon.lazy(KEY)}")
    for content in (here, both, rest):
        assert (merged / forest_path(hashlib.sha256(content).digest())).read_bytes() == content
    assert len(daemon.calls("lazy-read")) == 1
    assert os.listdir(merged / ".als") == os.listdir(forest / ".als")


@pytest.mark.parametrize("covered", [False, True])
def test_containers_find_the_bytes_by_redirect(daemon: Daemon, overlay: Overlay, tmp_path: Path, covered: bool) -> None:
    echo = ECHO.read_bytes()
    metadata, forest = tmp_path / "metadata", tmp_path / "forest"
    forest.mkdir()
    metadata_of(metadata, {"data/file": CONTENT, "bin/echo": echo, "data/same": CONTENT})
    paths = [daemon.add_lazy(KEY, content) for content in (CONTENT, echo)]
    data = overlay(f"ro,lowerdir={forest}:{daemon.lazy(KEY)}") if covered else daemon.lazy(KEY)
    (tmp_path / "upper").mkdir()
    (tmp_path / "work").mkdir()
    root = overlay(f"metacopy=on,lowerdir={metadata}::{data},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'}")
    assert [path.stat().st_size for path in paths] == [len(CONTENT), len(echo)]
    assert daemon.calls("lazy-read") == []
    assert (root / "data" / "file").read_bytes() == CONTENT
    assert run(root / "bin" / "echo", "from a lazy layer").stdout == b"from a lazy layer\n"
    reads = daemon.calls("lazy-read")
    assert (root / "data" / "same").read_bytes() == CONTENT
    assert daemon.calls("lazy-read") == reads
    # Written to, it becomes a whole file of the container's own.
    with (root / "data" / "file").open("ab") as file:
        file.write(b"more")
    assert (root / "data" / "file").read_bytes() == CONTENT + b"more"
    assert (tmp_path / "upper" / "data" / "file").stat().st_size == len(CONTENT) + 4


def test_a_container_gets_eio_and_then_the_bytes(daemon: Daemon, overlay: Overlay, tmp_path: Path) -> None:
    metadata_of(tmp_path / "metadata", {"file": CONTENT})
    daemon.add_lazy(KEY, CONTENT, error="the registry is gone")
    file = overlay(f"ro,metacopy=on,lowerdir={tmp_path / 'metadata'}::{daemon.lazy(KEY)}") / "file"
    with pytest.raises(OSError) as caught:
        file.read_bytes()
    assert caught.value.errno == errno.EIO
    daemon.behind_lazy(KEY, hashlib.sha256(CONTENT).digest()).with_suffix(".error").unlink()
    assert file.read_bytes() == CONTENT
