"""`als export --composefs`: the file beside mkcomposefs', the objects beside it, and what cannot be."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.config import LAYOUTS, Config
from als.erofs.dump import dump_lines
from als.errors import StoreError, Unsupported
from als.model.reference import parse_reference
from als.mount.propagation import ensure_shared
from als.service import Service
from als.service.export import export_composefs, merged_tree
from als.store.images import ImageRecord
from als.store.lock import sharing
from als.verity.library import known_or_computed
from tests.harness.ocilayout import Layout, TarBuilder
from tests.harness.system import run, unmount_below

FILES = {f"data/{size}": random.Random(size).randbytes(size) for size in (0, 1, 64, 65, 4095, 4096, 4097, 524288, 1 << 20)}


def lower() -> bytes:
    tar = TarBuilder().directory("data").directory("gone").file("gone/file", b"g" * 500).file("data/replaced", b"old" * 100)
    for path, data in FILES.items():
        tar.file(path, data)
    return tar.symlink("link", "data/1").build()


def upper() -> bytes:
    tar = TarBuilder().whiteout("gone").directory("data").file("data/replaced", b"new" * 200, 0o600, uid=1000, gid=1000)
    tar.add("device", b"3", devmajor=1, devminor=3, mode=0o666)
    xattrs = {"SCHILY.xattr.user.colour": "blue", "SCHILY.xattr.trusted.overlay.opaque": "y"}
    return tar.file("marked", b"m" * 99, pax_headers=xattrs).directory("opaque").opaque("opaque").build()


@pytest.fixture(scope="module")
def config(module_dir: Path, as_root: None) -> Config:
    return Config(root=module_dir / "a", run=module_dir / "run", worker_user="65534", layouts=LAYOUTS)


@pytest.fixture(scope="module")
def service(config: Config) -> Iterator[Service]:
    try:
        with Service(config) as opened:
            # As the daemon does it: ROOT is a mount of its own then.
            ensure_shared(config.root)
            yield opened
    finally:
        unmount_below(config.root)


@pytest.fixture(scope="module")
def layout(module_dir: Path) -> Layout:
    layout = Layout(module_dir / "images")
    layout.add_image("a", [layout.add_layer(lower()), layout.add_layer(upper())])
    linked = TarBuilder().file("one", b"1" * 700).hardlink("two", "one").build()
    layout.add_image("linked", [layout.add_layer(linked)])
    layout.add_image("digits", [layout.add_layer(TarBuilder().file("a0", b"1" * 700).build())])
    return layout


@pytest.fixture(scope="module")
def image(service: Service, layout: Layout) -> ImageRecord:
    return service.pull(parse_reference(layout.name("a")))


def tool_digest(path: Path) -> str:
    return subprocess.run(["fsverity", "digest", "--compact", path], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("version", [0, 1])
def test_the_file_equals_mkcomposefs_of_the_same_dump(
    service: Service, layout: Layout, image: ImageRecord, upstream_tools: Path, tmp_path: Path, version: int
) -> None:
    linked = service.pull(parse_reference(layout.name("linked")))
    for found in (image, linked):
        with sharing(service.layout.lock):
            done = export_composefs(service, found, tmp_path / "ours.cfs", version=version)
            tree, verity, _ = merged_tree(service, found)
        dump = "".join(dump_lines(tree, verity=verity))
        command = [upstream_tools / "mkcomposefs", f"--min-version={version}", f"--max-version={version}", "--print-digest"]
        told = subprocess.run(
            [*command, "--from-file", "-", tmp_path / "theirs.cfs"],
            input=dump.encode(),
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert told.stdout.decode().strip() == done.digest == tool_digest(tmp_path / "ours.cfs")
        assert (tmp_path / "theirs.cfs").read_bytes() == (tmp_path / "ours.cfs").read_bytes()


def test_the_file_equals_mkcomposefs_of_the_same_folder(
    service: Service, image: ImageRecord, upstream_tools: Path, tmp_path: Path
) -> None:
    """By a digest store of its own: names, digests and which files are in the image itself are mkcomposefs' doing."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "lower.tar").write_bytes(lower())
    (tmp_path / "upper.tar").write_bytes(upper())
    for name in ("lower", "upper"):
        command = ["tar", "-C", folder, "-xpf", tmp_path / f"{name}.tar", "--xattrs", "--xattrs-include=user.*"]
        subprocess.run(command, check=True, timeout=60)
    for path in ("gone", ".wh.gone", "opaque/.wh..wh..opq"):
        subprocess.run(["rm", "-rf", folder / path], check=True, timeout=60)
    os.setxattr(folder / "marked", "trusted.overlay.opaque", b"y")
    with sharing(service.layout.lock):
        done = export_composefs(service, image, tmp_path / "ours.cfs", objects=tmp_path / "objects")
        root = merged_tree(service, image)[0].root.inode
    times = {"": root, "data": None, "opaque": None}
    for name, inode in times.items():
        mtime = inode.mtime if inode is not None else 1_700_000_000
        os.utime(folder / name, (mtime, mtime))
    folder.chmod(root.mode)
    command = [upstream_tools / "mkcomposefs", f"--digest-store={tmp_path / 'store'}", "--print-digest", folder]
    told = subprocess.run([*command, tmp_path / "theirs.cfs"], capture_output=True, text=True, check=True, timeout=60)
    ours, theirs = [
        subprocess.run(
            [upstream_tools / "composefs-info", "dump", tmp_path / f"{name}.cfs"], capture_output=True, text=True, check=True
        ).stdout
        for name in ("ours", "theirs")
    ]
    assert ours == theirs
    assert told.stdout.strip() == done.digest
    stores = [
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("objects", "store")
    ]
    assert stores[0] == stores[1]
    assert len(stores[0]) == done.objects
    # What is there already stays: the second time nothing is left to do.
    with sharing(service.layout.lock):
        assert export_composefs(service, image, tmp_path / "ours.cfs", objects=tmp_path / "objects") == done


def test_objects_are_hardlinks_named_by_their_digests(service: Service, image: ImageRecord, tmp_path: Path) -> None:
    with sharing(service.layout.lock):
        done = export_composefs(service, image, tmp_path / "a.cfs", objects=tmp_path / "objects")
    found = [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert len(found) == done.objects
    for path in found:
        assert path.parent.name + path.name == known_or_computed(path).hex() == tool_digest(path)
        assert path.stat().st_nlink > 2


def test_the_verb(config: Config, service: Service, image: ImageRecord, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "als", "--root", str(config.root), "--run", str(config.run), "export", "--composefs"]
    told = run(*command, "-o", str(tmp_path / "a.cfs"), str(image.digest)).stdout.split()[0].decode()
    assert told == tool_digest(tmp_path / "a.cfs")
    facts = json.loads(run(*command, "-o", str(tmp_path / "b.cfs"), "--json", str(image.digest)).stdout)
    assert facts["digest"] == told
    assert (tmp_path / "b.cfs").read_bytes() == (tmp_path / "a.cfs").read_bytes()
    run(*command, str(tmp_path), status=3)


def test_what_cannot_be_exported(service: Service, layout: Layout, image: ImageRecord, tmp_path: Path) -> None:
    digits = service.pull(parse_reference(layout.name("digits")))
    with sharing(service.layout.lock):
        with pytest.raises(Unsupported):
            export_composefs(service, digits, tmp_path / "a.cfs")
        with pytest.raises(StoreError, match="cannot be written"):
            export_composefs(service, image, tmp_path / "none" / "a.cfs")
        with pytest.raises(StoreError, match="on another file system"):
            export_composefs(service, image, tmp_path / "a.cfs", objects=Path("/dev/shm") / f"als-{os.getpid()}")
    assert not list(tmp_path.iterdir())
    subprocess.run(["rm", "-rf", f"/dev/shm/als-{os.getpid()}"], check=True)
