"""`als export --composefs` under composefs' own mount.composefs: the file is held to a digest, and the objects to the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from als.config import LAYOUTS, Config
from als.model.reference import parse_reference
from als.service import Service
from als.service.export import Exported, export_composefs
from als.store.lock import sharing
from tests.conftest import CACHE
from tests.harness.composefs import mount_composefs
from tests.harness.debs import Unavailable
from tests.harness.ocilayout import Layout, TarBuilder
from tests.harness.system import run, unmount_below
from tests.verity.tampering import copied, flip_block, put_in_place

pytestmark = pytest.mark.in_vm

BIG = bytes(range(256)) * 64
LOWER = {"etc/big": BIG, "etc/replaced": b"old" * 100, "gone": b"g" * 500}
HARMS = {how: b"h" * (9000 + number) for number, how in enumerate(("content", "sealed", "unsealed", "block", "missing"))}
"""What is done to a file, of which each has its own: one image does for all tests, a pull takes long in the machine."""
UPPER = {"etc/replaced": b"new" * 200, "etc/small": b"tiny", **HARMS}


@dataclass(frozen=True)
class Written:
    """An exported image."""

    done: Exported
    file: Path
    objects: Path


@pytest.fixture(scope="module")
def written(module_dir: Path, as_root: None) -> Iterator[Written]:
    layout = Layout(module_dir / "images")
    lower, upper = TarBuilder().directory("etc"), TarBuilder().whiteout("gone")
    for tar, files in ((lower, LOWER), (upper, UPPER)):
        for name, data in files.items():
            tar.file(name, data, 0o640, uid=7)
    layout.add_image("a", [layout.add_layer(tar.symlink("link", "etc/big").build()) for tar in (lower, upper)])
    config = Config(
        root=module_dir / "a",
        run=module_dir / "run",
        worker_user="65534",
        lookup_deadline=120.0,
        layouts=LAYOUTS,
        verity="require",
    )
    try:
        with Service(config) as service:
            image = service.pull(parse_reference(layout.name("a")))
            with sharing(service.layout.lock):
                done = export_composefs(service, image, module_dir / "image.cfs", objects=module_dir / "objects")
            yield Written(done, module_dir / "image.cfs", module_dir / "objects")
    finally:
        unmount_below(module_dir)


def command(written: Written, digest: str, point: Path) -> list[str | Path]:
    try:
        program = mount_composefs(CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))
    return [program, "-o", f"basedir={written.objects},digest={digest}", written.file, point]


@contextmanager
def mounted(written: Written, digest: str) -> Iterator[Path]:
    point = written.file.with_name("mnt")
    point.mkdir(exist_ok=True)
    run(*command(written, digest, point))
    try:
        yield point
    finally:
        run("umount", point)


def refused(written: Written, digest: str) -> str:
    point = written.file.with_name("mnt")
    point.mkdir(exist_ok=True)
    done = run(*command(written, digest, point), status=None)
    assert done.returncode != 0 and not list(point.iterdir())
    return done.stderr.decode()


def test_the_right_digest_shows_the_tree(written: Written) -> None:
    assert written.done.sealed
    with mounted(written, written.done.digest) as root:
        found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        assert found == {"etc/big": BIG, "link": BIG, **UPPER}
        status = (root / "etc/small").stat()
        assert (status.st_mode & 0o7777, status.st_uid) == (0o640, 7)
        assert (root / "link").readlink() == Path("etc/big")


def test_another_digest_is_refused(written: Written) -> None:
    wrong = written.done.digest[:-1] + ("0" if written.done.digest[-1] != "0" else "1")
    assert "wrong fs-verity" in refused(written, wrong)
    # A file without fs-verity has none.
    other = replace(written, file=copied(written.file, written.file.with_name("other.cfs")))
    refused(other, written.done.digest)
    # Another file has another.
    data = bytearray(written.file.read_bytes())
    data[-4000] ^= 1
    put_in_place([other.file], bytes(data), sealed=True)
    refused(other, written.done.digest)
    put_in_place([other.file], written.file.read_bytes(), sealed=True)
    with mounted(other, written.done.digest):
        pass


@pytest.mark.parametrize("how", HARMS)
def test_objects_are_held_to_their_digests(written: Written, how: str) -> None:
    with mounted(written, written.done.digest) as root:
        assert (root / how).read_bytes() == HARMS[how]
    (path,) = [path for path in written.objects.rglob("*") if path.is_file() and path.stat().st_size == len(HARMS[how])]
    match how:
        case "block":
            flip_block(path, 0)
        case "missing":
            path.unlink()
        case _:
            put_in_place([path], HARMS[how] if how == "unsealed" else b"x" * len(HARMS[how]), sealed=how == "sealed")
    with mounted(written, written.done.digest) as root:
        with pytest.raises(OSError, match="No such file" if how == "missing" else "Input/output error"):
            (root / how).read_bytes()
        assert (root / "etc/big").read_bytes() == BIG
