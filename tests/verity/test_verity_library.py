"""fs-verity digests and signatures in user space, beside the tool of fsverity-utils."""

from __future__ import annotations

import importlib
import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from als.errors import KernelError, MissingLibrary, NotFound
from als.native.verity import measure_path, seal_files
from als.verity import library
from als.verity.library import cannot_seal, digest_of, digest_of_fd, known_or_computed, sign

BLOCK = 4096
PER_LEVEL = 128
"""Hashes in a block of the Merkle tree."""
EDGES = [n + d for n in (0, BLOCK, 2 * BLOCK, PER_LEVEL * BLOCK, 1 << 20, PER_LEVEL * PER_LEVEL * BLOCK) for d in (-1, 0, 1)]
SIZES = [size for size in EDGES if size >= 0]


def told_by_tool(path: Path) -> str:
    done = subprocess.run(["fsverity", "digest", "--compact", path], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


@pytest.mark.parametrize("size", SIZES)
def test_digests_equal_the_tools_around_the_borders_of_blocks_and_levels(size: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = random.Random(size).randbytes(size)
    path.write_bytes(data)
    assert digest_of(data).hex() == told_by_tool(path)
    assert known_or_computed(path).hex() == told_by_tool(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks=st.integers(0, 2 * PER_LEVEL + 1), beside=st.integers(-3, 3), seed=st.integers(0, 1 << 32), zeros=st.booleans())
def test_digests_equal_the_tools(blocks: int, beside: int, seed: int, zeros: bool, tmp_path: Path) -> None:
    size = max(0, blocks * BLOCK + beside)
    path = tmp_path / "file"
    path.write_bytes(bytes(size) if zeros else random.Random(seed).randbytes(size))
    assert known_or_computed(path).hex() == told_by_tool(path)


def test_digests_of_all_fixtures(fixtures_dir: Path, upstream_tools: Path) -> None:
    """mkcomposefs' idea of a digest is the same as well."""
    paths = [path for path in sorted(fixtures_dir.rglob("*")) if path.is_file() and not path.is_symlink()]
    told = subprocess.run(
        ["fsverity", "digest", "--compact", *paths], capture_output=True, text=True, check=True, timeout=120
    ).stdout.split()
    assert [known_or_computed(path).hex() for path in paths] == told
    environment = {**os.environ, "LD_LIBRARY_PATH": str(upstream_tools)}
    of_composefs = subprocess.run(
        [upstream_tools / "composefs-info", "measure-file", *paths[:50]],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=120,
    ).stdout.split()
    assert of_composefs == told[:50]


def test_mkcomposefs_calls_all_fixtures_by_the_same_digests(fixtures_dir: Path, upstream_tools: Path, tmp_path: Path) -> None:
    command = [upstream_tools / "mkcomposefs", f"--digest-store={tmp_path / 'store'}", fixtures_dir, tmp_path / "image.cfs"]
    subprocess.run(command, check=True, timeout=120)
    names = {path.parent.name + path.name for path in (tmp_path / "store").rglob("*") if path.is_file()}
    files = [path for path in fixtures_dir.rglob("*") if path.is_file() and not path.is_symlink()]
    # Smaller ones are in the image itself.
    assert names == {known_or_computed(path).hex() for path in files if path.stat().st_size > 64}


def test_bytes_of_every_kind_give_the_same() -> None:
    data = b"abc" * 5000
    assert digest_of(data) == digest_of(bytearray(data)) == digest_of(memoryview(data))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 5000)
    fd = os.open(tmp_path / "file", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            digest_of_fd(fd)
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def keys(module_dir: Path) -> tuple[Path, Path]:
    key, certificate = module_dir / "key.pem", module_dir / "cert.pem"
    command = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-x509", "-out", certificate, "-days", "2"]
    subprocess.run([*command, "-subj", "/CN=als"], check=True, capture_output=True, timeout=120)
    return key, certificate


def test_a_signature_is_one_of_the_digest(keys: tuple[Path, Path], tmp_path: Path) -> None:
    digest = digest_of(b"signed")
    (tmp_path / "signature").write_bytes(sign(digest, *keys))
    # What is signed: struct fsverity_formatted_digest (linux/fsverity.h): magic, algorithm 1, 32 bytes.
    (tmp_path / "text").write_bytes(b"FSVerity" + (1).to_bytes(2, "little") + (32).to_bytes(2, "little") + digest)
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", tmp_path / "signature"]
    command += ["-content", tmp_path / "text", "-certfile", keys[1], "-CAfile", keys[1], "-purpose", "any", "-out", os.devnull]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (tmp_path / "text").write_bytes(b"FSVerity" + bytes(36))
    assert subprocess.run(command, check=False, capture_output=True, timeout=120).returncode != 0


def test_what_cannot_be_signed_with(keys: tuple[Path, Path], tmp_path: Path) -> None:
    digest = digest_of(b"signed")
    with pytest.raises(NotFound, match="no such file"):
        sign(digest, tmp_path / "none", keys[1])
    (tmp_path / "broken").write_text("no key")
    with pytest.raises(KernelError, match="cannot sign"):
        sign(digest, tmp_path / "broken", keys[1])
    with pytest.raises(ValueError, match="32 bytes"):
        sign(b"short", *keys)


def test_without_the_library_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(MissingLibrary, match="libfsverity") as caught:
        digest_of(b"")
    assert "libfsverity-dev" in caught.value.hint
    monkeypatch.undo()
    assert library.extension() is not None


def test_what_a_file_system_without_fs_verity_says() -> None:
    """/dev/shm is a tmpfs, which has none on any kernel."""
    path = Path("/dev/shm") / f"als-verity-{os.getpid()}"
    path.write_bytes(b"x")
    try:
        assert measure_path(path) is None
        with pytest.raises(OSError, match=path.name) as caught:
            seal_files([str(path)])
        error = cannot_seal(caught.value, str(path))
        assert "tune2fs -O verity" in error.hint
        fd = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises(KernelError, match="cannot be sealed"):
                library.enable(fd)
        finally:
            os.close(fd)
    finally:
        path.unlink()
