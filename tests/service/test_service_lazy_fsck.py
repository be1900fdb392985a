"""What is found wrong with lazy layers, and how it is put right."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from als.lazy.layer import LazyLayer
from als.mount.table import find_mount
from als.mount.unmounting import unmount
from als.service import Service
from als.service.fsck import Remedy
from als.service.removal import Garbage, collect
from als.service.repair import fsck
from als.store.lazyfolders import chains_of
from tests.formats.tocbuilder import estargz, file, zstd_podman
from tests.lazy.faultyregistry import FaultyRegistry
from tests.lazy.site import Site, blobs_of, noise
from tests.service.lazystore import Keeper, LazyStore, folder_of, published_problems

ONE = zstd_podman([file("first", noise(20_000, 1)), file("second", noise(150_000, 2))], 50_000)
TWO = estargz([file("third", noise(30_000, 3)), file("fourth", noise(90_000, 4))], 40_000)
FIRST, SECOND = (hashlib.sha256(noise(size, seed)).digest() for size, seed in ((20_000, 1), (150_000, 2)))


@pytest.fixture
def store(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[LazyStore]:
    with FaultyRegistry(blobs_of(ONE, TWO)) as registry, Site(service.layout.root, service.workers) as site:
        keeper = Keeper(site)
        monkeypatch.setattr(service, "lazies", keeper)
        yield LazyStore(service, keeper, registry)


def listed(service: Service) -> set[str]:
    return set(service.composefs.published())


Damage = Callable[[Service, LazyLayer], object]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def _forest(service: Service, layer: LazyLayer) -> Path:
    return folder_of(service, layer) / "diff1" / ".als"


DAMAGES: dict[str, tuple[Damage, str]] = {
    "record": (lambda s, layer: (folder_of(s, layer) / "lazy.json").unlink(), "lazy.json"),
    "record-text": (lambda s, layer: (folder_of(s, layer) / "lazy.json").write_text("{}"), "record"),
    "index": (lambda s, layer: _flip(folder_of(s, layer) / "index"), "its index"),
    "no-index": (lambda s, layer: (folder_of(s, layer) / "index").unlink(), "index"),
    "image": (lambda s, layer: _flip(folder_of(s, layer) / "layer.erofs"), "EROFS image is not the one"),
    "short": (lambda s, layer: os.truncate(_forest(s, layer) / FIRST.hex(), 7), "7 bytes instead of 20000"),
    "foreign": (lambda s, layer: (_forest(s, layer) / ("0" * 64)).touch(), "none of its files"),
    "part": (lambda s, layer: (folder_of(s, layer) / "parts" / ("0" * 64)).touch(), "none of its files"),
    "long-part": (
        lambda s, layer: (folder_of(s, layer) / "parts" / SECOND.hex()).write_bytes(bytes(150_001)),
        "larger than the file",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_healed_by_the_next_pull(store: LazyStore, service: Service, damage: str) -> None:
    image, (_, layer) = store.pull("img", TWO, ONE)
    assert store.read(layer, FIRST) == noise(20_000, 1)
    apply, words = DAMAGES[damage]
    apply(service, layer)
    keeper, service.lazies = service.lazies, None
    found = fsck(service).found
    assert [(p.name, p.remedy) for p in found if p.kind == "lazy layer"] == [(layer.key, Remedy.DISCARD)], found
    assert words in found[0].what
    remaining = fsck(service, repair=True).remaining
    assert {(p.kind, p.remedy) for p in remaining} == {("reference", Remedy.PULL)}
    assert listed(service) == {image.toc_chain[0]}, "what lies below is still shown"
    assert any(path.name.endswith(layer.key) for path in service.layout.quarantine.iterdir())
    service.lazies = keeper
    _, (_, new) = store.pull("img", TWO, ONE)
    assert store.read(new, FIRST) == noise(20_000, 1)
    assert fsck(service, deep=True).found == ()
    assert collect(service) == Garbage()


def test_another_content_is_found_by_reading(store: LazyStore, service: Service) -> None:
    _, (layer,) = store.pull("img", ONE)
    assert store.read(layer, FIRST) == noise(20_000, 1)
    _flip(_forest(service, layer) / FIRST.hex())
    assert fsck(service).found == ()
    (problem,) = fsck(service, deep=True).found
    assert (problem.kind, problem.remedy) == ("lazy layer", Remedy.DISCARD)
    assert "another content" in problem.what


def test_a_chain_whose_lazy_layer_is_gone(store: LazyStore, service: Service) -> None:
    image, (_, layer) = store.pull("img", TWO, ONE)
    service.lazies = None
    folder_of(service, layer).rename(service.layout.root / "elsewhere")
    assert {(p.name, p.remedy) for p in published_problems(service)} == {(image.toc_chain[1], Remedy.UNPUBLISH)}
    remaining = fsck(service, repair=True).remaining
    assert {(p.kind, p.remedy) for p in remaining} == {("reference", Remedy.PULL)}
    assert listed(service) == {image.toc_chain[0]}


def test_a_chain_that_names_the_lazy_layer_of_another(store: LazyStore, service: Service) -> None:
    image, (one, two) = store.pull("img", ONE, TWO)
    keeper, service.lazies = service.lazies, None
    marker = service.composefs.folder(image.toc_chain[0]) / "lazy"
    marker.write_text(two.key)
    problems = published_problems(service)
    assert {p.name for p in problems} == {image.toc_chain[0]}
    assert Remedy.UNPUBLISH in {p.remedy for p in problems}
    fsck(service, repair=True)
    assert listed(service) == set()
    marker = service.composefs.folder(image.toc_chain[0])
    assert not marker.exists()
    service.lazies = keeper
    service.publish(image)
    assert fsck(service, deep=True).found == ()
    assert chains_of(folder_of(service, one)) == {image.toc_chain[0]}


def test_a_marker_that_is_lost(store: LazyStore, service: Service) -> None:
    image, _ = store.pull("img", ONE)
    service.lazies = None
    (service.composefs.folder(image.toc_chain[0]) / "lazy").unlink()
    assert {(p.name, p.remedy) for p in published_problems(service)} == {(image.toc_chain[0], Remedy.UNPUBLISH)}
    fsck(service, repair=True)
    assert listed(service) == set()


def test_what_is_wrong_with_a_chain_alone_is_made_again(store: LazyStore, service: Service) -> None:
    """From its lazy layer, and without a daemon; what lies on top as well."""
    image, _ = store.pull("img", ONE, TWO)
    service.lazies = None
    service.composefs.blob(image.toc_chain[0]).unlink()
    (service.composefs.folder(image.toc_chain[1]) / "lower").write_text("l/OTHER")
    assert {p.remedy for p in published_problems(service)} == {Remedy.REPUBLISH}
    assert fsck(service, repair=True).remaining == ()
    assert listed(service) == set(image.toc_chain)
    assert len(store.mounts()) == 2


def test_a_cover_that_is_lost_is_mounted_again(store: LazyStore, service: Service) -> None:
    image, _ = store.pull("img", ONE)
    diff = service.composefs.folder(image.toc_chain[0]) / "diff"
    unmount(diff)
    unmount(service.layout.mount_point)
    assert fsck(service).found == (), "there is nobody who could serve it"
    subprocess.run(["mount", "--bind", store.face, service.layout.mount_point], check=True)
    assert {p.remedy for p in published_problems(service)} == {Remedy.COVER}
    assert fsck(service, repair=True).remaining == ()
    assert find_mount(diff) is not None
