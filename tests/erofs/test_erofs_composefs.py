"""The writer against mkcomposefs 1.0.8: the same tree has to give the same image, bit for bit."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from als.erofs.dump import dump_lines
from als.erofs.profile import COMPOSEFS_V0, COMPOSEFS_V1, Profile
from als.erofs.writer import write_image
from als.model.tree import Tree
from tests.erofs.trees import crowded, from_truth, parse_dump, trees

VERSIONS = [(COMPOSEFS_V0, "0"), (COMPOSEFS_V1, "1")]


def ours(tree: Tree, profile: Profile, verity: Mapping[bytes, bytes] | None = None) -> bytes:
    out = io.BytesIO()
    write_image(tree, out, profile, verity=verity)
    return out.getvalue()


def theirs(tools: Path, dump: str, version: str) -> bytes:
    command = [str(tools / "mkcomposefs"), f"--min-version={version}", f"--max-version={version}", "--from-file", "-", "-"]
    done = subprocess.run(command, input=dump.encode(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def expect_same(tools: Path, tree: Tree, profile: Profile, version: str, verity: Mapping[bytes, bytes] | None = None) -> None:
    dump = "".join(dump_lines(tree, verity=verity))
    assert ours(tree, profile, verity) == theirs(tools, dump, version)


@pytest.mark.parametrize("name", ["layer0", "merged", "merged.fromdump"])
def test_fixture_images_come_out_the_same(fixtures_dir: Path, name: str) -> None:
    folder = fixtures_dir / "composefs-tiny"
    tree, verity = parse_dump((folder / f"{name.partition('.')[0]}.dump").read_text("utf-8"))
    expected = (folder / f"{name}.cfs").read_bytes()
    assert ours(tree, COMPOSEFS_V0, verity) == expected


@pytest.mark.parametrize("version", [0, 1])
def test_both_versions_of_the_merged_fixture(fixtures_dir: Path, version: int) -> None:
    folder = fixtures_dir / "composefs-tiny"
    tree, verity = parse_dump((folder / "merged.dump").read_text("utf-8"))
    image = ours(tree, VERSIONS[version][0], verity)
    assert image == (folder / f"merged.v{version}.cfs").read_bytes()


@pytest.mark.parametrize(("profile", "version"), VERSIONS)
@pytest.mark.parametrize("inline", [False, True])
def test_merged_truth_with_hardlinks(
    fixtures_dir: Path, upstream_tools: Path, profile: Profile, version: str, inline: bool
) -> None:
    truth = json.loads((fixtures_dir / "truth-tiny.json").read_text("utf-8"))
    small = {
        entry["path"]: b"x" * entry["size"]
        for entry in truth["merged"]
        if entry.get("size", 99) <= 64 and entry["type"] == "file"
    }
    tree = from_truth(truth["merged"], inline=small if inline else None)
    verity = {name: hashlib.sha256(name).digest() for name in tree.contents()}
    expect_same(upstream_tools, tree, profile, version, verity)
    expect_same(upstream_tools, tree, profile, version)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(tree=trees(layer=False), with_verity=st.booleans())
def test_any_tree(upstream_tools: Path, tree: Tree, with_verity: bool) -> None:
    verity = {name: hashlib.sha256(name).digest() for name in tree.contents()} if with_verity else None
    expect_same(upstream_tools, tree, COMPOSEFS_V0, "0", verity)


@pytest.mark.parametrize("seed", range(8))
def test_crowded_trees(upstream_tools: Path, seed: int) -> None:
    expect_same(upstream_tools, crowded(seed, files=100 * (seed + 1)), COMPOSEFS_V1, "1")
