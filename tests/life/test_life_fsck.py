"""Every kind of damage is found, repaired where that can be done, and healed by the next pull where it cannot."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from als.model.forest import FOREST
from als.mount.unmounting import unmount
from als.service import Service
from als.service.affected import forests
from als.service.fsck import Problem, Remedy
from als.service.removal import collect
from als.service.repair import fsck
from als.service.scrub import scrub
from als.service.usage import measure_layers
from als.store.images import ImageRecord
from tests.harness.ocilayout import Layout
from tests.harness.policy import ExpectedLogs
from tests.life.stores import contents, image, layer, pull


@pytest.fixture
def reference(layout: Layout) -> str:
    return image(layout, "one", "a", "b", "c")


@pytest.fixture
def pulled(service: Service, reference: str) -> ImageRecord:
    return pull(service, reference)


def forest(service: Service, pulled: ImageRecord, index: int = 1) -> list[Path]:
    """The files of one layer's forest."""
    return sorted((service.layers.forest(pulled.config.diff_ids[index]) / FOREST).iterdir())


def damage(path: Path, data: bytes = b"X") -> None:
    """Change a file's content in place, in all its names."""
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(data)


def found(service: Service, *, deep: bool = False) -> list[Problem]:
    return list(fsck(service, deep=deep).found)


def heal(service: Service, reference: str, *, deep: bool = False) -> None:
    """Repair, pull again, and have nothing wrong then."""
    fsck(service, repair=True, deep=deep)
    pull(service, reference)
    assert found(service, deep=True) == []


def test_a_sound_store(service: Service, pulled: ImageRecord) -> None:
    assert found(service, deep=True) == []
    assert fsck(service, repair=True, deep=True).remaining == ()


def test_what_a_kill_left_beside_objects_is_none(service: Service, pulled: ImageRecord) -> None:
    """Of a link that was being replaced, and of an object that was being copied."""
    own = forest(service, pulled)[0]
    for folder in forests(service):
        (folder / ".link-0123456789abcdef").hardlink_to(own)
    named = service.layout.object(bytes.fromhex(own.name))
    (named.parent / ".copy-0123456789abcdef").write_bytes(b"half")
    before = measure_layers(service)
    assert found(service, deep=True) == []
    scrub(service, threading.Event())
    assert measure_layers(service) == before
    (service.layers.image(pulled.config.diff_ids[1])).unlink()
    fsck(service, repair=True)
    collect(service)
    assert not list(service.layout.objects.glob("*/.copy-*"))


def test_a_tall_image_is_sound(service: Service, layout: Layout) -> None:
    pulled = pull(service, image(layout, "tall", *(f"n{number}" for number in range(18))))
    assert service.diff_n.is_flat(pulled.chain[7]) and service.diff_n.is_flat(pulled.chain[15])
    assert found(service, deep=True) == []
    (service.diff_n.folder(pulled.chain[15]) / "diff1" / FOREST / forest(service, pulled, 2)[0].name).unlink()
    assert [problem.remedy for problem in found(service)] == [Remedy.REPUBLISH]
    assert fsck(service, repair=True).remaining == ()
    assert found(service, deep=True) == []


def test_a_lost_link_is_made_again(service: Service, pulled: ImageRecord) -> None:
    lost = forest(service, pulled)[0]
    lost.unlink()
    assert [(p.kind, p.remedy) for p in found(service)] == [("layer", Remedy.RELINK)]
    assert fsck(service, repair=True).remaining == ()
    assert lost.stat().st_nlink == 3, "its name, the layer's forest, the chain's forest in image-store"
    assert found(service, deep=True) == []


def test_it_is_said_whose_file_a_chain_has_lost(service: Service, pulled: ImageRecord) -> None:
    name = forest(service, pulled)[0].name
    lost = service.composefs.folder(pulled.chain[1]) / "diff" / FOREST / name
    lost.unlink()
    assert {(p.remedy, p.sha256.hex()) for p in found(service, deep=True)} == {(Remedy.REPUBLISH, ""), (Remedy.REPUBLISH, name)}
    report = fsck(service, repair=True, deep=True)
    assert report.remaining == () and lost.exists()
    ((diff_id, _),) = report.affected[bytes.fromhex(name)].files
    assert diff_id == pulled.config.diff_ids[1]


def test_a_lost_name_is_given_again(service: Service, pulled: ImageRecord) -> None:
    held = forest(service, pulled)[0]
    service.layout.object(bytes.fromhex(held.name)).unlink()
    assert [p.remedy for p in found(service)] == [Remedy.NAME]
    assert fsck(service, repair=True).remaining == ()
    assert held.stat().st_nlink == 3, "its name, the layer's forest, the chain's forest in image-store"


def test_changed_content(service: Service, pulled: ImageRecord, reference: str) -> None:
    held = forest(service, pulled)[0]
    damage(held)
    assert found(service) == [], "its size is right, and nobody looked into it"
    report = fsck(service, repair=True, deep=True)
    assert {p.remedy for p in report.found} == {Remedy.RELINK, Remedy.QUARANTINE_OBJECT}
    assert report.remaining == (), "its source has it still"
    assert found(service, deep=True) == []
    assert set(service.diff_n.published()) == set(pulled.chain)


def test_changed_content_that_is_not_to_be_had_again(
    service: Service, pulled: ImageRecord, reference: str, layout: Layout, expect_log: ExpectedLogs
) -> None:
    expect_log("is not to be had again from")
    held = forest(service, pulled)[0]
    damage(held)
    moved = layout.folder.rename(layout.folder.with_name("moved"))
    report = fsck(service, repair=True, deep=True)
    assert [p.remedy for p in report.remaining] == [Remedy.PULL]
    assert set(service.diff_n.published()) == {pulled.chain[0]}, "what lies on the damaged layer cannot be used either"
    assert not service.layout.object(bytes.fromhex(held.name)).exists()
    moved.rename(layout.folder)
    pull(service, reference)
    assert found(service, deep=True) == []
    assert set(service.diff_n.published()) == set(pulled.chain)
    (kept,) = [path for path in service.layout.quarantine.iterdir() if "-layer-" in path.name]
    assert [path.name for path in (kept / "diff1" / FOREST).iterdir()] == [held.name], "sound files are not kept there"


def test_changed_size(service: Service, pulled: ImageRecord, reference: str) -> None:
    held = forest(service, pulled)[0]
    damage(held, b"x" * 10_000)
    assert [p.remedy for p in found(service)] == [Remedy.RELINK]
    heal(service, reference)


def test_a_sound_copy_elsewhere_is_used(service: Service, pulled: ImageRecord) -> None:
    """The second copy that a file with too many links has."""
    held = forest(service, pulled)[0]
    data = held.read_bytes()
    held.unlink()
    held.write_bytes(data)
    assert found(service, deep=True) == []
    damage(service.layout.object(bytes.fromhex(held.name)))
    assert [p.remedy for p in found(service, deep=True)] == [Remedy.QUARANTINE_OBJECT]
    damage(held)
    service.layout.object(bytes.fromhex(held.name)).write_bytes(data)
    assert [p.remedy for p in found(service, deep=True)] == [Remedy.RELINK]
    assert fsck(service, repair=True, deep=True).remaining == ()
    assert held.read_bytes() == data and held.stat().st_nlink == 3, (
        "its name, the layer's forest, the chain's forest in image-store"
    )


@pytest.mark.parametrize("name", ["layer.erofs", "recipe", "layer.json"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "garbage"])
def test_a_damaged_layer(service: Service, pulled: ImageRecord, reference: str, name: str, how: str) -> None:
    path = service.layout.layer(pulled.config.diff_ids[1]) / name
    data = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "garbage": bytes(len(data))}[how])
    problems = found(service)
    assert Remedy.QUARANTINE_LAYER in {p.remedy for p in problems}
    report = fsck(service, repair=True)
    assert {p.remedy for p in report.remaining} == {Remedy.PULL}
    heal(service, reference)


def test_a_recipe_of_another_stream(service: Service, layout: Layout, pulled: ImageRecord, reference: str) -> None:
    from als.store.recipe import RecipeWriter, read_recipe

    path = service.layers.recipe(pulled.config.diff_ids[1])
    parts = list(read_recipe(path))
    with path.open("wb") as file:
        writer = RecipeWriter(file)
        for part in parts:
            if isinstance(part, bytes):
                writer.segment(bytes(len(part)))
            else:
                writer.object(part)
        writer.close()
    assert found(service) == []
    assert [p.remedy for p in found(service, deep=True)] == [Remedy.QUARANTINE_LAYER]
    heal(service, reference, deep=True)


@pytest.mark.parametrize("name", ["manifest", "config", "image.json"])
def test_a_damaged_image(service: Service, pulled: ImageRecord, reference: str, name: str) -> None:
    path = service.layout.images / pulled.digest.hex / name
    data = path.read_bytes()
    path.write_bytes(data.replace(b"linux", b"lynux") if name == "config" else data[:-7])
    assert [(p.kind, p.remedy) for p in found(service)] == [("image", Remedy.QUARANTINE_FILE)]
    heal(service, reference)


def test_damaged_records(service: Service, pulled: ImageRecord, reference: str) -> None:
    (ref,) = service.layout.refs.iterdir()
    ref.write_bytes(b"{}")
    (service.layout.uses / "x.json").write_bytes(b"[]")
    assert [(p.kind, p.remedy) for p in found(service)] == [
        ("reference", Remedy.QUARANTINE_FILE),
        ("use", Remedy.QUARANTINE_FILE),
    ]
    heal(service, reference)


def test_a_reference_without_its_image(service: Service, pulled: ImageRecord, reference: str) -> None:
    shutil.rmtree(service.layout.images / pulled.digest.hex)
    assert [p.remedy for p in found(service)] == [Remedy.FORGET]
    assert fsck(service, repair=True).remaining == ()
    assert service.images.refs() == []


BREAKS: dict[str, Callable[[Service, str], object]] = {
    "unmounted": lambda service, chain: unmount(service.diff_n.diff(chain)),
    "no folder": lambda service, chain: (
        unmount(service.diff_n.diff(chain)),
        shutil.rmtree(service.diff_n.folder(chain)),
    ),
    "no link file": lambda service, chain: (service.diff_n.folder(chain) / "link").unlink(),
    "another lower": lambda service, chain: (service.diff_n.folder(chain) / "lower").write_text("l/ZZ"),
    "no short name": lambda service, chain: (
        service.layout.image_store_4 / "overlay" / "l" / (service.diff_n.folder(chain) / "link").read_text()
    ).unlink(),
    "no tar-split": lambda service, chain: service.diff_n.tar_split(chain).unlink(),
    "another forest": lambda service, chain: (
        (service.diff_n.folder(chain) / "diff1").unlink(),
        (service.diff_n.folder(chain) / "diff1").symlink_to("/nowhere"),
    ),
}


COMPOSEFS_BREAKS: dict[str, Callable[[Service, str], object]] = {
    "no place": lambda service, chain: (service.composefs.overlay / chain).unlink(),
    "no folder": lambda service, chain: shutil.rmtree(service.composefs.folder(chain)),
    "no image": lambda service, chain: service.composefs.blob(chain).unlink(),
    "another image": lambda service, chain: (
        service.composefs.blob(chain).unlink(),
        service.composefs.blob(chain).write_bytes(b"another"),
    ),
    "no link file": lambda service, chain: (service.composefs.folder(chain) / "link").unlink(),
    "another lower": lambda service, chain: (service.composefs.folder(chain) / "lower").write_text("l/ZZ"),
    "no tar-split": lambda service, chain: service.composefs.tar_split(chain).unlink(),
    "a file less": lambda service, chain: next((service.composefs.folder(chain) / "diff" / FOREST).iterdir()).unlink(),
}


@pytest.mark.parametrize("how", COMPOSEFS_BREAKS)
def test_broken_publication_as_composefs(service: Service, pulled: ImageRecord, how: str) -> None:
    COMPOSEFS_BREAKS[how](service, pulled.chain[1])
    assert {(p.layout, p.remedy) for p in found(service)} == {("composefs", Remedy.REPUBLISH)}
    assert fsck(service, repair=True).remaining == ()
    assert found(service, deep=True) == []


def test_a_list_that_lost_its_place(service: Service, pulled: ImageRecord) -> None:
    service.composefs.list_file.unlink()
    assert found(service)
    with Service(service.config) as restarted:
        assert set(restarted.composefs.published()) == set(pulled.chain)
        assert found(restarted, deep=True) == []


@pytest.mark.parametrize("how", BREAKS)
def test_broken_publication(service: Service, pulled: ImageRecord, how: str) -> None:
    BREAKS[how](service, pulled.chain[1])
    assert {p.remedy for p in found(service)} == {Remedy.REPUBLISH}
    assert fsck(service, repair=True).remaining == ()
    assert found(service, deep=True) == []


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[1]", b'[{"id": "x"}]'])
def test_a_damaged_list(service: Service, pulled: ImageRecord, data: bytes) -> None:
    before = service.diff_n.list_file.read_bytes()
    service.diff_n.list_file.write_bytes(data)
    assert found(service)
    assert fsck(service, repair=True).remaining == ()
    assert sorted(json.loads(service.diff_n.list_file.read_bytes()), key=str) == sorted(json.loads(before), key=str)


def test_an_unpublished_image_is_published(service: Service, pulled: ImageRecord) -> None:
    service.diff_n.unpublish(pulled.chain[1:])
    assert [p.remedy for p in found(service)] == [Remedy.PUBLISH]
    assert fsck(service, repair=True).remaining == ()


def test_a_quarantined_layer_spares_others(service: Service, layout: Layout, pulled: ImageRecord, reference: str) -> None:
    other = pull(service, image(layout, "two", "a", "d"))
    (service.layers.image(pulled.config.diff_ids[1])).write_bytes(b"")
    fsck(service, repair=True)
    assert set(other.chain) <= service.diff_n.published().keys()
    heal(service, reference)
    for ref in service.images.refs():
        service.images.forget(ref.reference)
    collect(service)
    left = contents(service.layout.root)
    assert {path for path in left if not path.startswith("quarantine/")} == set()


def test_a_link_count_at_its_limit(service: Service, layout: Layout, pulled: ImageRecord) -> None:
    """ext4 takes 65,000 names for a file; the next layer that has the file gets a copy of its own."""
    held = forest(service, pulled)[0]
    spare = service.layout.root / "spare"
    spare.mkdir()
    try:
        for number in range(70_000):
            os.link(held, spare / str(number))
    except OSError:
        assert held.stat().st_nlink == 65_000
    else:
        pytest.skip("this file system takes 70,000 links")
    both = layout.add_layer(layout_with(held.read_bytes()))
    layout.add_image("copy", [layer(layout, "z"), both])
    copied = pull(service, layout.name("copy"))
    twin = next(path for path in forest(service, copied) if path.name == held.name)
    assert twin.stat().st_ino != held.stat().st_ino and twin.read_bytes() == held.read_bytes()
    assert twin.stat().st_nlink == 2, "the forests of the layer and of its chain in image-store"
    assert found(service, deep=True) == []
    shutil.rmtree(spare)
    collect(service)
    assert twin.exists() and held.exists(), "a copy without a name in objects/ is none the less held by its layer"
    for ref in service.images.refs():
        service.images.forget(ref.reference)
    collect(service)
    assert contents(service.layout.root) == set()


def layout_with(data: bytes) -> bytes:
    from tests.harness.ocilayout import TarBuilder

    return TarBuilder().file("the-same", data).build()
