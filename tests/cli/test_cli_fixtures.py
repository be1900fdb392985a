"""The command line on images whose content is known: every path, attribute and byte of them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.als import AlsDaemon

FIXTURES = ["plain-gzip-tiny", "plain-gzip-tinyp", "plain-none-tiny", "plain-zstd-tiny"]


@pytest.fixture(scope="module")
def als(module_dir: Path, as_root: None) -> Iterator[AlsDaemon]:
    """Only its command line is used: no daemon is started."""
    daemon = AlsDaemon(module_dir / "als")
    try:
        yield daemon
    finally:
        daemon.close()


def comparable(entry: dict[str, Any]) -> dict[str, Any]:
    """A truth's entry as ``als files`` would print it, but for ino."""
    if entry.get("whiteout") == "delete":
        return {"path": entry["whiteout_target"], "type": "whiteout"}
    kind = "file" if entry["type"] == "hardlink" else entry["type"]
    found = {key: entry[key] for key in ("path", "mode", "uid", "gid", "mtime", "size") if key in entry} | {"type": kind}
    for theirs, ours in (("sha256", "sha256"), ("rdev", "rdev"), ("xattrs_hex", "xattrs")):
        if theirs in entry:
            found[ours] = entry[theirs]
    if kind == "symlink":
        found["linkname"] = entry["linkname"]
    return found


def expected(layer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every name of a layer by the truth, with the content of hardlinks filled in."""
    contents = {entry["path"]: entry for entry in layer["entries"] if entry["type"] == "file"}
    found: dict[str, dict[str, Any]] = {}
    opaque = set()
    for entry in layer["entries"]:
        if entry.get("whiteout") == "opaque":
            opaque.add(entry["whiteout_target"])
            continue
        shown = comparable(entry)
        if entry["type"] == "hardlink":
            target = contents["/" + entry["linkname"].removeprefix("./")]
            shown |= {"sha256": target["sha256"], "size": target["size"]}
        found[shown["path"]] = shown
    for path in opaque:
        found[path]["opaque"] = True
    return found


@pytest.mark.parametrize("fixture", FIXTURES)
def test_files_equal_the_truth(als: AlsDaemon, fixtures_dir: Path, fixture: str) -> None:
    image = f"oci:{fixtures_dir / fixture}"
    als.cli("pull", image)
    truth = json.loads((fixtures_dir / f"truth-{fixture.rsplit('-', 1)[1]}.json").read_bytes())
    for index, layer in enumerate(truth["layers"]):
        wanted = expected(layer)
        shown = {entry["path"]: entry for entry in als.files(image, "--layer", str(index))}
        implicit = set(shown) - set(wanted)
        assert all(shown[path]["type"] == "dir" and shown[path]["mode"] == "0755" for path in implicit)
        assert implicit == {path for path in implicit if any(other.startswith(path.rstrip("/") + "/") for other in wanted)}
        for path, entry in wanted.items():
            assert {key: shown[path].get(key) for key in entry} == entry, path
        groups: dict[str, set[int]] = {}
        for entry in layer["entries"]:
            if "hardlink_group" in entry:
                groups.setdefault(entry["hardlink_group"], set()).add(shown[entry["path"]]["ino"])
        assert groups, "the fixture has hardlinks"
        assert all(len(numbers) == 1 for numbers in groups.values())


def test_every_byte_of_the_merged_image(als: AlsDaemon, fixtures_dir: Path) -> None:
    image = f"oci:{fixtures_dir / 'plain-gzip-tiny'}"
    als.cli("pull", image)
    truth = json.loads((fixtures_dir / "truth-tiny.json").read_bytes())
    seen = 0
    for entry in truth["merged"]:
        if entry["type"] != "file":
            continue
        content = als.cli("cat", image, entry["path"]).stdout
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["path"]
        seen += 1
    assert seen > 40
    assert als.cli("cat", image, "/etc/removed.conf", status=3).stdout == b""
    assert als.cli("cat", image, "/opt/data/old1", status=3).stdout == b""
    assert als.cli("cat", image, "/bin/hello-link").stdout == als.cli("cat", image, "/usr/bin/hello").stdout


def test_listings(als: AlsDaemon, fixtures_dir: Path) -> None:
    image = f"oci:{fixtures_dir / 'plain-gzip-tiny'}"
    als.cli("pull", image)
    images = {entry["reference"]: entry for entry in als.json("images")}
    assert images[image]["layers"] == 2
    assert (images[image]["state"], images[image]["percent"]) == ("sealed", 100)
    layers = {entry["diff_id"]: entry for entry in als.json("layers")}
    truth = json.loads((fixtures_dir / "truth-tiny.json").read_bytes())
    for layer in truth["layers"]:
        assert layers[layer["diff_id"]]["diff_size"] == layer["tar_size"]
        assert image in layers[layer["diff_id"]]["images"]
    shown = als.json("inspect", image)
    assert shown["references"] == [image]
    assert [layer["diff_id"] for layer in shown["layers"]] == [layer["diff_id"] for layer in truth["layers"]]
    assert all("is4" in layer["image_stores"] for layer in shown["layers"])
    layer = als.json("inspect", truth["layers"][0]["diff_id"])
    assert layer["format"] == "tar"
    assert layer["mounted"] == layer["chain_ids"] != []
    usage = als.json("df")
    assert usage["objects"] > 0
    for verb in (["images"], ["layers"], ["df"], ["inspect", image], ["files", image]):
        assert als.cli(*verb).stdout.count(b"\n") >= 2


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["pull", "oci:/nowhere"], 3, b"/nowhere"),
        (["pull", "UPPER/case"], 2, b"UPPER"),
        (["pull", "127.0.0.1:1/name"], 4, b"127.0.0.1:1"),
        (["files", "nothing"], 3, b"als images"),
        (["inspect", "0123456789"], 3, b"0123456789"),
        (["cat", "nothing", "/x"], 3, b"nothing"),
        (["pull"], 2, b"REF"),
        (["unknown"], 2, b"unknown"),
        (["--config", "/nowhere/als.toml", "images"], 2, b"/nowhere/als.toml"),
    ],
)
def test_errors_are_one_line_and_a_status(als: AlsDaemon, arguments: list[str], status: int, says: bytes) -> None:
    done = als.cli(*arguments, status=status)
    assert says in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_every_verb_has_help() -> None:
    top = subprocess.run([sys.executable, "-m", "als", "--help"], capture_output=True, check=True, text=True).stdout
    verbs = [line.split()[0] for line in top.partition("Commands:")[2].splitlines() if line.strip()]
    assert {"serve", "pull", "images", "status", "wait", "layers", "df", "files", "cat", "inspect", "doctor"} <= set(verbs)
    for verb in verbs:
        text = subprocess.run([sys.executable, "-m", "als", verb, "--help"], capture_output=True, check=True, text=True).stdout
        assert len(text) > 100, verb


def test_a_reader_that_has_enough(als: AlsDaemon, fixtures_dir: Path) -> None:
    image = f"oci:{fixtures_dir / 'plain-gzip-tiny'}"
    als.cli("pull", image)
    script = f"{sys.executable} -m als --root {als.root} --run {als.run} files --json {image} | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""
