"""Every eStargz and zstd:chunked fixture equals the truth: read lazily, in pieces, through FUSE; natively once it is sealed."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.lazily.conftest import Open
from tests.lazily.site import Lazy, Shop, Site, described
from tests.podman.test_podman_content import truth, walk

FIXTURES = (
    "estargz-tiny",
    "estargz-prioritized-tiny",
    "estargz-externaltoc-tiny",
    "zstdchunked-skopeo122-tiny",
)
SAME = ("zstdchunked-skopeo122-tiny", "zstdchunked-image5.42-tiny")
"""Two tools that wrote the same bytes."""
Rows = dict[str, dict[str, Any]]


def push(shop: Shop, fixtures_dir: Path, name: str) -> Lazy:
    """A fixture in the registry, with its external table of contents where it has one."""
    layout = fixtures_dir / name
    tag = "1"
    if "externaltoc" in name:
        shop.put(f"oci:{layout}:example.com/peers/tiny:estargz-externaltoc-esgztoc", f"{name}:{tag}-esgztoc")
        return described(layout, shop.put(f"oci:{layout}:estargz-externaltoc", f"{name}:{tag}"))
    return described(layout, shop.put(f"oci:{layout}", f"{name}:{tag}"))


def read_in_pieces(root: Path, expected: Rows, seed: int) -> None:
    """All files at once, in random pieces, each in a random moment."""
    numbers = random.Random(seed)
    files = {path: root / path.lstrip("/") for path, row in expected.items() if row["type"] == "file"}
    pieces = []
    for path, row in expected.items():
        if row["type"] == "file":
            cuts = sorted({0, row["size"], *(numbers.randint(0, row["size"]) for _ in range(4))})
            pieces += [(path, start, end) for start, end in itertools.pairwise(cuts)]
    numbers.shuffle(pieces)
    fds = {path: os.open(file, os.O_RDONLY | os.O_CLOEXEC) for path, file in files.items()}
    found = {path: bytearray(expected[path]["size"]) for path in files}
    try:
        for path, start, end in pieces:
            data = os.pread(fds[path], end - start, start)
            assert len(data) == end - start, path
            found[path][start:end] = data
    finally:
        for fd in fds.values():
            os.close(fd)
    wrong = [path for path in files if hashlib.sha256(found[path]).hexdigest() != expected[path]["sha256"]]
    assert not wrong


def expected_of(fixtures_dir: Path, name: str) -> Rows:
    """The truth, as far as the format can tell it."""
    expected = truth(fixtures_dir, "tiny")
    # The image says nothing of its root's time.
    del expected["/"]["mtime"]
    if name.startswith("estargz"):
        for row in expected.values():
            if "mtime" in row:
                # Its tables of contents have whole seconds, rounded (Go's time.Round).
                seconds, nanoseconds = row["mtime"]
                row["mtime"] = [seconds + (nanoseconds >= 500_000_000), 0]
    return expected


def compare(root: Path, expected: Rows) -> None:
    seen = walk(root)
    assert set(seen) == set(expected)
    wrong = {
        path: {name: (value, seen[path].get(name)) for name, value in row.items() if seen[path].get(name) != value}
        for path, row in expected.items()
    }
    assert not {path: row for path, row in wrong.items() if row}, "path: (truth, seen)"


def check(site: Site, image: Lazy, expected: Rows, way: str, seed: int) -> None:
    with site.mounts():
        root = site.mount_by_chain(image) if way == "chain" else site.mount_by_lookup(image)
        read_in_pieces(root, expected, seed)
        compare(root, expected)


@pytest.mark.parametrize("name", FIXTURES)
def test_fixture_equals_truth(opened: Open, shop: Shop, fixtures_dir: Path, name: str) -> None:
    image = push(shop, fixtures_dir, name)
    expected = expected_of(fixtures_dir, name)
    ways = ("lookup", "chain")
    # Each way with a store that has nothing yet.
    sites = {way: opened() for way in ways}
    for number, way in enumerate(ways):
        site = sites[way]
        site.look_up(image)
        assert not list((site.als.root / "layers").iterdir())
        assert site.lazy_files() < len({row["sha256"] for row in expected.values() if "sha256" in row}), (
            "files are still to come"
        )
        check(site, image, expected, way, number)
    for way in ways:
        sites[way].fill()
    for way in ways:
        sites[way].wait_sealed(image)
        diffs = sites[way].look_up(image)
        assert all(diff.parent.parent.name == "layers" for diff in diffs), "new clients are shown the finished layer"
        sites[way].als.stop(signal.SIGKILL)
        with sites[way].mounts():
            root = sites[way].mount_by_chain(image)
            read_in_pieces(root, expected, 3)
            compare(root, expected)


def test_no_fixture_is_left_out(fixtures_dir: Path) -> None:
    names = {path.parent.name for path in fixtures_dir.glob("*/index.json")}
    assert {name for name in names if name.startswith(("estargz", "zstdchunked"))} == {*FIXTURES, *SAME}
    first, second = (described(fixtures_dir / name, "").manifest for name in SAME)
    assert first == second
