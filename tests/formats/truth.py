"""The fixtures' truth: what the tool that wrote the source layers says it put into them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rows = dict[str, dict[str, object]]


@dataclass(frozen=True)
class TrueLayer:
    diff_id: str
    tar_size: int
    rows: Rows
    """As tests.formats.streams.rows gives them for a tree."""


def load_truth(fixtures: Path, image: str) -> list[TrueLayer]:
    """The layers of ``tiny`` or ``tinyp``, the lowest first."""
    document = json.loads((fixtures / f"truth-{image}.json").read_text("utf-8"))
    return [TrueLayer(layer["diff_id"], layer["tar_size"], _rows(layer["entries"])) for layer in document["layers"]]


def _rows(entries: list[dict[str, Any]]) -> Rows:
    result: Rows = {"/": _implicit_directory()}
    groups: dict[str, str] = {}
    for entry in entries:
        hidden: str = entry.get("whiteout_target", "")
        if entry.get("whiteout") == "opaque":
            result[hidden]["opaque"] = True
            continue
        if hidden:
            result[hidden] = {"type": "whiteout"}
            continue
        _imply_parents(result, entry["path"])
        row = _row(entry)
        if entry["type"] == "hardlink":
            target = "/" + entry["linkname"].removeprefix("./").lstrip("/")
            row |= {key: result[target][key] for key in ("type", "size", "sha256", "linkname")}
            groups[entry["path"]] = groups.get(target, target)
        result[entry["path"]] = row
    for path, row in result.items():
        if row["type"] not in ("dir", "whiteout"):
            row["ino"] = path
    for members in _by_group(groups):
        for member in members:
            result[member]["ino"] = min(members, key=lambda path: path.encode().split(b"/"))
    return result


def _by_group(groups: dict[str, str]) -> list[set[str]]:
    collected: dict[str, set[str]] = {}
    for member, leader in groups.items():
        collected.setdefault(leader, {leader}).add(member)
    return list(collected.values())


def _row(entry: dict[str, Any]) -> dict[str, object]:
    row: dict[str, object] = {
        "type": entry["type"],
        "mode": entry["mode"],
        "uid": entry["uid"],
        "gid": entry["gid"],
        "mtime": entry["mtime"],
        "size": entry["size"],
        "linkname": entry.get("linkname", ""),
        "rdev": entry.get("rdev", [0, 0]),
        "xattrs": entry.get("xattrs_hex", {}),
    }
    if entry["type"] == "dir":
        row["opaque"] = False
    if "sha256" in entry:
        row["sha256"] = entry["sha256"]
    return row


def _imply_parents(result: Rows, path: str) -> None:
    names = path.strip("/").split("/")[:-1]
    for end in range(1, len(names) + 1):
        result.setdefault("/" + "/".join(names[:end]), _implicit_directory())


def _implicit_directory() -> dict[str, object]:
    return _row({"type": "dir", "mode": "0755", "uid": 0, "gid": 0, "mtime": [0, 0], "size": 0})
