"""`als export --composefs` under composefs' own mount.composefs: the file is held to a digest, and the objects to the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from tests.verity.tampering import flip_block, put_in_place

pytestmark = pytest.mark.in_vm

BIG = bytes(range(256)) * 64
LOWER = {"etc/big": BIG, "etc/replaced": b"old" * 100, "gone": b"g" * 500}
UPPER = {"etc/replaced": b"new" * 200, "etc/small": b"tiny", "harmed": b"h" * 9000}


@dataclass(frozen=True)
class Written:
    """An exported image."""

    done: Exported
    file: Path
    objects: Path


@pytest.fixture
def written(module_dir: Path, sealable: Path, as_root: None) -> Iterator[Written]:
    layout = Layout(sealable / "images")
    lower, upper = TarBuilder().directory("etc"), TarBuilder().whiteout("gone")
    for tar, files in ((lower, LOWER), (upper, UPPER)):
        for name, data in files.items():
            tar.file(name, data, 0o640, uid=7)
    layout.add_image("a", [layout.add_layer(tar.symlink("link", "etc/big").build()) for tar in (lower, upper)])
    config = Config(
        root=sealable / "a", run=sealable / "run", worker_user="65534", lookup_deadline=120.0, layouts=LAYOUTS, verity="require"
    )
    try:
        with Service(config) as service:
            image = service.pull(parse_reference(layout.name("a")))
            with sharing(service.layout.lock):
                done = export_composefs(service, image, sealable / "image.cfs", objects=sealable / "objects")
            yield Written(done, sealable / "image.cfs", sealable / "objects")
    finally:
        unmount_below(sealable)


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
        status = (root / "harmed").stat()
        assert (status.st_mode & 0o7777, status.st_uid) == (0o640, 7)
        assert (root / "link").readlink() == Path("etc/big")


def test_another_digest_is_refused(written: Written) -> None:
    wrong = written.done.digest[:-1] + ("0" if written.done.digest[-1] != "0" else "1")
    assert "wrong fs-verity" in refused(written, wrong)
    # A file without fs-verity has none.
    put_in_place([written.file], written.file.read_bytes(), sealed=False)
    refused(written, written.done.digest)
    # Another file has another.
    data = bytearray(written.file.read_bytes())
    data[-4000] ^= 1
    put_in_place([written.file], bytes(data), sealed=True)
    refused(written, written.done.digest)


@pytest.mark.parametrize("how", ["content", "sealed", "unsealed", "block", "missing"])
def test_objects_are_held_to_their_digests(written: Written, how: str) -> None:
    with mounted(written, written.done.digest) as root:
        assert (root / "harmed").read_bytes() == UPPER["harmed"]
    (path,) = [path for path in written.objects.rglob("*") if path.is_file() and path.stat().st_size == 9000]
    match how:
        case "block":
            flip_block(path, 0)
        case "missing":
            path.unlink()
        case _:
            other = UPPER["harmed"] if how == "unsealed" else b"x" * 9000
            put_in_place([path], other, sealed=how == "sealed")
    with mounted(written, written.done.digest) as root:
        with pytest.raises(OSError, match="No such file" if how == "missing" else "Input/output error"):
            (root / "harmed").read_bytes()
        assert (root / "etc/big").read_bytes() == BIG
