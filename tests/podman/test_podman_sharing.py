"""One copy on disk, one copy in the page cache; and a large file that is appended to is not copied where the disk can share."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.disk import bytes_on_disk, drop_from_cache, free_bytes, resident_bytes, xfs
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack
from tests.podman.conftest import Push

COUNT = 600
LARGE = 400 << 20


def files_of(seed: int) -> dict[str, bytes]:
    """Names and random contents of `COUNT` files, about 72 MB."""
    source = random.Random(seed)
    return {f"data/{n // 50}/{n}": source.randbytes(source.randrange(1000, 240_000)) for n in range(COUNT)}


def layer_of(files: dict[str, bytes], mtime: int) -> bytes:
    tar = TarBuilder(mtime=mtime)
    for name, data in files.items():
        tar.file(name, data)
    return tar.build()


@pytest.fixture(scope="module")
def twins(stack: Stack, images: ImageFactory, push: Push) -> tuple[str, str, int, int]:
    """Two images with 90 % of their files in common and no data layer; with the disk taken by the first, and by both."""
    first = files_of(1)
    changed = dict(list(files_of(2).items())[: COUNT // 10])
    second = first | changed
    half = COUNT // 2
    images.runnable("twin-a", [layer_of(first, 1_600_000_000)])
    parts = [dict(list(second.items())[:half]), dict(list(second.items())[half:])]
    images.runnable("twin-b", [layer_of(part, 1_700_000_000) for part in parts])
    references = push("twin-a"), push("twin-b")
    places = (stack.als.root, stack.podman.graph_root)
    before = bytes_on_disk(*places)
    taken = []
    for reference in references:
        stack.pull(reference)
        taken.append(bytes_on_disk(*places) - before)
    return references[0], references[1], taken[0], taken[1]


def test_two_images_take_little_more_than_one(twins: tuple[str, str, int, int]) -> None:
    _, _, one, both = twins
    assert one > sum(map(len, files_of(1).values()))
    assert both <= 1.15 * one, f"{both / one:.3f} times the disk of one"


def test_both_see_the_same_inode_and_pages(stack: Stack, twins: tuple[str, str, int, int]) -> None:
    first, second = twins[:2]
    path = f"/data/{(COUNT - 1) // 50}/{COUNT - 1}"
    rows = [[row for row in stack.als.files(reference) if row["path"] == path] for reference in (first, second)]
    (ours,), (theirs,) = rows
    assert ours["sha256"] == theirs["sha256"]
    stored = stack.als.object_path(ours["sha256"])
    links = stack.als.links(stored)
    assert len({link.relative_to(stack.als.root).parts[1] for link in links}) >= 2, (
        "overlay opens it in the forest of each layer"
    )
    drop_from_cache(stored)
    assert resident_bytes(stored) == 0
    stack.podman.run(first, "cat", path)
    assert resident_bytes(stored) >= ours["size"]
    pages = resident_bytes(stored)
    stack.podman.run(second, "cat", path)
    assert resident_bytes(stored) == pages


def test_als_df_agrees(stack: Stack, twins: tuple[str, str, int, int]) -> None:
    report = stack.als.json("df")
    text = json.dumps(report)
    assert twins[0] in text
    assert twins[1] in text


@pytest.fixture(scope="module")
def xfs_stack(as_root: None, module_dir: Path, registry: RegistryServer) -> Iterator[Stack]:
    with xfs(module_dir, 4 << 30) as point, Stack(point, registry) as running:
        yield running


def test_append_to_a_large_file_copies_nothing(xfs_stack: Stack, images: ImageFactory, push: Push) -> None:
    podman = xfs_stack.podman
    block = random.Random(3).randbytes(1 << 20)
    images.runnable("large", [TarBuilder().file("large", block * (LARGE >> 20)).build()])
    reference = push("large")
    xfs_stack.pull(reference)
    podman("run", "-d", "--name", "appends", "--pull=never", reference, "sleep", "1000")
    before = free_bytes(xfs_stack.als.root)
    podman("exec", "appends", "sh", "-c", "echo appended >>/large")
    used = before - free_bytes(xfs_stack.als.root)
    assert podman.text("exec", "appends", "tail", "-c", "9", "/large") == "appended"
    assert podman.text("exec", "appends", "stat", "-c", "%s", "/large") == str(LARGE + 9)
    assert used < 4 << 20, f"the append took {used >> 20} MiB"
    podman("rm", "-f", "-t", "0", "appends")
