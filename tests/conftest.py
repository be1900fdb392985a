"""Fixtures that every part of the test suite may use. What makes a run fail beside assertions is in tests/harness/policy.py."""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from tests.harness import vmparts, vmpytest
from tests.harness.debs import Unavailable
from tests.harness.policy import Policy, expect_log, fail_on_leftovers

__all__ = ["expect_log"]

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache"
FIXTURES = ROOT / "tests" / "fixtures" / "fixtures.tar.zst"
TOOLS_BESIDE = ROOT.parent / "shared" / "tools.tar.zst"


def pytest_configure(config: pytest.Config) -> None:
    # As pip does when it installs them. Where the environment forbids it (PYTHONDONTWRITEBYTECODE), each daemon and each
    # command of a test would compile them all anew, for seconds.
    compileall.compile_dir(ROOT / "als", quiet=1)
    config.pluginmanager.register(Policy(config), "als-policy")
    config.pluginmanager.register(vmpytest.plugin(CACHE), "als-vm")


def unpacked(archive: Path, name: str) -> Path:
    """The archive's content in a folder of the cache, unpacked once for each state of the archive."""
    state = archive.stat()
    key = hashlib.sha256(f"{archive}:{state.st_size}:{state.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = CACHE / f"{name}-{key}"
    if not folder.exists():
        CACHE.mkdir(exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=CACHE))
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        with (
            archive.open("rb") as raw,
            decompressor.stream_reader(raw) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            tar.extraction_filter = lambda member, _path: member  # Our own archive: nothing of it is to be changed.
            tar.extractall(staging)
        staging.chmod(0o755)
        staging.rename(folder)
    return folder


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The unpacked fixtures: one folder per format, src-tars/, truth-tiny.json. Read-only by agreement."""
    return unpacked(FIXTURES, "fixtures")


def _make_runnable(folder: Path, names: tuple[str, ...]) -> None:
    """Put a script that sets LD_LIBRARY_PATH before each tool that needs the library beside it."""
    for name in names:
        tool, real = folder / name, folder / f".{name}"
        if not tool.exists() or real.exists():
            continue
        tool.rename(real)
        tool.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{folder}" exec "{real}" "$@"\n', "utf-8")
        tool.chmod(0o755)


@pytest.fixture(scope="session")
def upstream_tools() -> Path:
    """The folder with mkcomposefs, composefs-info, fsck.erofs, dump.erofs, mkfs.erofs, estargz-convert ... by their upstreams.

    From ALS_UPSTREAM_TOOLS (a folder or a .tar.zst), or from ../shared/tools.tar.zst beside the checkout. The two of composefs
    need libcomposefs.so.1, which lies in the same folder; they are wrapped so that they find it.
    """
    source = Path(os.environ.get("ALS_UPSTREAM_TOOLS") or TOOLS_BESIDE)
    if not source.exists():
        pytest.skip(f"upstream tools are not here: neither ALS_UPSTREAM_TOOLS nor {TOOLS_BESIDE.name} beside the checkout")
    if source.is_dir():
        return source
    folder = unpacked(source, "upstream-tools")
    _make_runnable(folder, ("mkcomposefs", "composefs-info"))
    return folder


@pytest.fixture(scope="session")
def as_root() -> None:
    """For tests that mount, make devices or run podman."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="session")
def vm_parts(as_root: None) -> vmparts.Parts:
    """What virtual machines are made of; see tests/harness/vm.py."""
    try:
        return vmparts.fetch(CACHE)
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def vm_disk(vm_parts: vmparts.Parts) -> Path:
    """The disk of a :class:`tests.harness.vm.FullVM`."""
    try:
        return vmparts.disk(CACHE)
    except Unavailable as error:
        pytest.skip(str(error))


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        pytest.fail(f"cannot remove {folder}", pytrace=False)


@pytest.fixture(scope="session")
def session_dir() -> Iterator[Path]:
    """A folder for what a whole session shares. Its path is short for overlay's options, and it is on a disk for its size."""
    parent = Path(os.environ.get("ALS_TEST_DIR", "/var/tmp"))
    folder = Path(tempfile.mkdtemp(prefix="als-", dir=parent))
    folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IROTH | stat.S_IXGRP | stat.S_IRGRP)
    yield folder
    fail_on_leftovers(folder)
    _remove(folder)


@pytest.fixture(scope="module")
def module_dir(session_dir: Path) -> Iterator[Path]:
    """A folder of the module's own; mounts, processes and loop devices below it must be gone when the module ends."""
    folder = Path(tempfile.mkdtemp(prefix="m", dir=session_dir))
    folder.chmod(0o755)
    yield folder
    fail_on_leftovers(folder)
    _remove(folder)


@pytest.fixture(scope="module", autouse=True)
def _no_leftovers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    fail_on_leftovers(tmp_path_factory.getbasetemp())
