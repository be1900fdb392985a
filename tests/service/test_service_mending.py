"""Damaged objects: who is concerned is said; they are replaced wherever they are, from a copy or from the image's source."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from als.model.digest import Digest
from als.model.reference import parse_reference
from als.service import Service
from als.service.affected import forests
from als.service.contents import file_content
from als.service.repair import Report, fsck
from als.store.images import ImageRecord
from als.store.objects import file_sha256
from tests.harness.ocilayout import Layout, TarBuilder

GOOD = b"sound content " * 100
NAME = Digest.of(GOOD)
OTHER = b"other content " * 100


@pytest.fixture
def image(service: Service, layout: Layout) -> ImageRecord:
    """Two layers with the same file under different names, and one image above the lower of them."""
    lower = layout.add_layer(TarBuilder().directory("etc").file("etc/one", GOOD).file("rest", b"r" * 500).build())
    upper = layout.add_layer(TarBuilder().file("two", GOOD).build())
    layout.add_image("a", [lower, upper])
    return service.pull(parse_reference(layout.name("a")))


def copies(service: Service) -> list[Path]:
    """Every name that the object has in a forest."""
    return [path for folder in forests(service) if (path := folder / NAME.hex).exists()]


def named(service: Service) -> Path:
    return service.layout.object(bytes.fromhex(NAME.hex))


def damage(service: Service) -> None:
    """Another content in the one inode that all have."""
    path = named(service)
    path.chmod(0o600)
    path.write_bytes(OTHER)


def test_a_damaged_object_is_fetched_again_for_all_forests(service: Service, image: ImageRecord, layout: Layout) -> None:
    before = set(copies(service))
    old = named(service).stat().st_ino
    damage(service)
    layers = [service.layers.forest(diff_id).stat().st_ino for diff_id in image.config.diff_ids]
    report = fsck(service, repair=True, deep=True)
    assert set(copies(service)) == before
    assert named(service).stat().st_ino != old
    # Containers that run look files up in these very folders.
    assert [service.layers.forest(diff_id).stat().st_ino for diff_id in image.config.diff_ids] == layers
    (kept,) = service.layout.quarantine.iterdir()
    assert kept.read_bytes() == OTHER
    assert all(file_sha256(path) == bytes.fromhex(NAME.hex) for path in before)
    assert_healed(service, report, image, layout)


def assert_healed(service: Service, report: Report, image: ImageRecord, layout: Layout) -> None:
    assert report.remaining == ()
    assert fsck(service, deep=True).found == ()
    assert b"".join(file_content(service, image, "/etc/one")) == GOOD
    concerned = report.affected[bytes.fromhex(NAME.hex)]
    assert set(concerned.files) == {(image.config.diff_ids[0], "/etc/one"), (image.config.diff_ids[1], "/two")}
    assert concerned.images == (str(parse_reference(layout.name("a"))),)


@pytest.mark.parametrize("how", ["missing", "cut"])
def test_what_needs_no_reading_to_be_seen(service: Service, image: ImageRecord, layout: Layout, how: str) -> None:
    if how == "cut":
        named(service).chmod(0o600)
        os.truncate(named(service), 5)
    else:
        for path in [named(service), *copies(service)]:
            path.unlink(missing_ok=True)
    report = fsck(service, repair=True)
    assert_healed(service, report, image, layout)


def test_a_replaced_link_is_found_and_mended_from_the_store(service: Service, image: ImageRecord, layout: Layout) -> None:
    """Not fetched: another name of the object is sound."""
    shutil.rmtree(layout.folder)
    path = next(each for each in copies(service) if each.is_relative_to(service.layout.image_store))
    path.unlink()
    path.write_bytes(OTHER)
    found = fsck(service, deep=True).found
    assert [problem.path for problem in found] == [path]
    report = fsck(service, repair=True, deep=True)
    assert_healed(service, report, image, layout)
    assert path.stat().st_ino == named(service).stat().st_ino
