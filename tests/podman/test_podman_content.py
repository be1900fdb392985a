"""What a container sees of the fixture image equals the truth: every path, attribute and byte, whiteouts applied."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}


def described(path: Path) -> dict[str, Any]:
    """A file as the truth describes it; what overlay cannot keep (the link count across layers) is left out."""
    status = path.lstat()
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    row: dict[str, Any] = {
        "type": kind,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime": list(divmod(status.st_mtime_ns, 10**9)),
        "size": status.st_size if kind == "file" else 0,
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False).hex() for name in os.listxattr(path, follow_symlinks=False)
        },
    }
    if kind == "symlink":
        row["linkname"] = str(path.readlink())
    if kind == "file":
        row["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    if kind in ("char", "block"):
        row["rdev"] = [os.major(status.st_rdev), os.minor(status.st_rdev)]
    return row


def walk(root: Path) -> dict[str, dict[str, Any]]:
    """Every path below the root, in the image's terms."""
    found = {"/": described(root)}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            found[f"/{path.relative_to(root)}"] = described(path)
    return found


def truth(fixtures_dir: Path, image: str) -> dict[str, dict[str, Any]]:
    """The merged image of truth-*.json in the same terms; what the image leaves open (implied folders) is left open here."""
    rows = {}
    for entry in json.loads((fixtures_dir / f"truth-{image}.json").read_bytes())["merged"]:
        names = ("type",) if entry.get("implicit") else ("type", "mode", "uid", "gid", "mtime", "linkname", "rdev", "sha256")
        row = {name: entry[name] for name in names if name in entry}
        if not entry.get("implicit"):
            row["size"] = entry["size"] if entry["type"] == "file" else 0
            row["xattrs"] = entry.get("xattrs_hex", {})
        rows[entry["path"]] = row
    return rows


@pytest.mark.parametrize("image", ["plain-gzip-tiny", "plain-none-tiny", "plain-zstd-tiny", "plain-gzip-tinyp"])
def test_container_sees_the_truth(stack: Stack, registry: RegistryServer, fixtures_dir: Path, image: str) -> None:
    reference = registry.push(f"oci:{fixtures_dir / image}", f"content-{image}:latest")
    stack.pull(reference)
    expected = truth(fixtures_dir, image.rpartition("-")[2])
    with stack.podman.mounted(reference) as root:
        seen = walk(root)
    for mounted_over in ("/proc", "/sys", "/dev", "/run", "/etc"):  # Podman makes these where an image has none.
        if mounted_over not in expected:
            seen.pop(mounted_over, None)
    assert set(seen) == set(expected)
    expected["/"]["mtime"] = seen["/"]["mtime"]  # The root is the container's own, made by podman when the container was.
    wrong: dict[str, dict[str, Any]] = {}
    for path, row in expected.items():
        different = {name: (value, seen[path].get(name)) for name, value in row.items() if seen[path].get(name) != value}
        if different:
            wrong[path] = different
    assert not wrong, f"path: (truth, seen): {wrong}"
    stack.podman("rmi", reference)
