"""What leaves podman again is what came in: the layers of a saved or pushed image have the same DiffIDs, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.archives import diff_ids_of_archive, pushed_diff_ids
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder
from tests.harness.stack import Stack
from tests.podman.conftest import Push


def awkward() -> list[bytes]:
    """Layers whose tar streams no program would write like this from the files alone."""
    first = TarBuilder(mtime=1_600_000_000.123456789).directory("d").file("d/f", b"first").hardlink("d/h", "d/f")
    first.file("d/f2", b"x" * 70000, mode=0o4755, uname="somebody", gname="some group").file("d/f", b"the last one wins")
    first.symlink("d/s", "../" + "t" * 150).file("long/" + "n" * 200, b"implicit parent")
    second = TarBuilder().opaque("d").file("d/new", b"new\n" * 5000).whiteout("etc/group").build() + b"\0" * 10240
    return [first.build(), second]


@pytest.fixture(scope="module", params=["gzip", "zstd", "none"])
def pulled(stack: Stack, images: ImageFactory, push: Push, request: pytest.FixtureRequest) -> str:
    tag = f"export-{request.param}"
    images.runnable(tag, awkward(), compression=request.param)
    reference = push(tag)
    stack.pull(reference)
    return reference


def test_save(stack: Stack, pulled: str) -> None:
    podman = stack.podman
    expected = podman.layers(pulled)
    # With plain overlay as well, podman 4.3.1 cannot put an image of zstd layers into a docker-archive.
    for form in ("oci-archive",) if "zstd" in pulled else ("oci-archive", "docker-archive"):
        archive = podman.base / f"saved-{form}.tar"
        podman("save", "-q", "--format", form, "-o", archive, pulled)
        assert diff_ids_of_archive(archive) == expected
        archive.unlink()


def test_push(stack: Stack, pulled: str, tmp_path: Path) -> None:
    expected = stack.podman.layers(pulled)
    # A repository of another registry path, so that podman cannot simply mount the blobs it knows to be there.
    target = pulled.replace("/export", "/elsewhere/export")
    stack.podman("push", "-q", "--compression-format", "gzip", pulled, target)
    assert pushed_diff_ids(target, tmp_path) == expected


def test_push_of_a_commit_on_top(stack: Stack, pulled: str, tmp_path: Path) -> None:
    podman = stack.podman
    podman("run", "--name", "top", pulled, "sh", "-c", "chmod 600 /d/new; echo added >/added")
    podman("commit", "-q", "top", "localhost/top:1")
    podman("rm", "top")
    expected: list[Any] = podman.layers("localhost/top:1")
    assert expected[:-1] == podman.layers(pulled)
    target = pulled.replace("/export", "/committed/export")
    podman("push", "-q", "localhost/top:1", target)
    podman("rmi", "localhost/top:1")
    assert pushed_diff_ids(target, tmp_path) == expected
