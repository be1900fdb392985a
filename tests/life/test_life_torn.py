"""Records and files that a power cut or a rotten disk has damaged: a start takes them out of service, says so, and goes on."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from als.errors import StoreDamaged
from als.model.forest import FOREST
from als.service import Service
from als.service.healing import heal
from als.service.recovery import recover
from als.service.removal import collect
from als.service.repair import fsck
from als.store.images import ImageRecord
from als.store.lock import sharing
from tests.harness.ocilayout import Layout
from tests.harness.policy import ExpectedLogs
from tests.life.stores import image, pull

Damage = Callable[[Service, ImageRecord], Path]


def _layer(service: Service, pulled: ImageRecord) -> Path:
    """The folder of the layer that the other image does not have."""
    return service.layout.layer(pulled.config.diff_ids[1])


def _object(service: Service, pulled: ImageRecord) -> Path:
    return min((_layer(service, pulled) / "diff1" / FOREST).iterdir())


def _ref(service: Service, pulled: ImageRecord) -> Path:
    (found,) = (path for path in service.layout.refs.iterdir() if service.images.read(path).digest == pulled.digest)
    return found


RECORDS: dict[str, Damage] = {
    "reference": _ref,
    "image.json": lambda service, pulled: service.layout.images / pulled.digest.hex / "image.json",
    "manifest": lambda service, pulled: service.layout.images / pulled.digest.hex / "manifest",
    "config": lambda service, pulled: service.layout.images / pulled.digest.hex / "config",
    "layer.json": lambda service, pulled: _layer(service, pulled) / "layer.json",
    "is4/layers.json": lambda service, _: service.diff_n.list_file.resolve(),
    "image-store/layers.json": lambda service, _: service.composefs.list_file.resolve(),
    "is4/images.json": lambda service, _: service.diff_n.images.list_file,
}
"""Found at any start."""
FILES: dict[str, Damage] = {
    "layer.erofs": lambda service, pulled: _layer(service, pulled) / "layer.erofs",
    "recipe": lambda service, pulled: _layer(service, pulled) / "recipe",
    "object": _object,
}
"""Found at the first start after a boot."""
WAYS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "half": lambda data: data[: len(data) // 2],
}


def booted(service: Service) -> None:
    """Nothing is mounted any more, and RUN is empty."""
    service.diff_n.unmount_all()
    (service.config.run / "checked").unlink(missing_ok=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record(service: Service, layout: Layout, expect_log: ExpectedLogs, name: str, way: str) -> None:
    check_damage(service, layout, expect_log, RECORDS[name], WAYS[way])


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_off(service: Service, layout: Layout, expect_log: ExpectedLogs, name: str) -> None:
    check_damage(service, layout, expect_log, FILES[name], WAYS["empty"])


def check_damage(
    service: Service, layout: Layout, expect_log: ExpectedLogs, damage: Damage, way: Callable[[bytes], bytes]
) -> None:
    """One of two images is damaged: the other one is served after the next start, and the next pull heals the first."""
    kept, broken = image(layout, "kept", "a"), image(layout, "broken", "a", "b")
    sound, pulled = pull(service, kept), pull(service, broken)
    path = damage(service, pulled)
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(way(data))
    booted(service)
    expect_log("als.service")
    with Service(service.config) as restarted:
        recover(restarted)
        for store in restarted.image_stores:
            assert store.published().keys() >= store.ids_of([restarted.layer_of(sound, 0)])
        assert restarted.diff_n.is_ready(sound.chain[0])
        pull(restarted, broken)
        assert fsck(restarted, deep=True).found == ()
        collect(restarted)
        assert restarted.ref_of(broken) is not None


def test_what_was_lost_is_fetched_again_and_named_in_the_log(
    service: Service, layout: Layout, expect_log: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    broken = image(layout, "broken", "a", "b")
    pulled = pull(service, broken)
    _object(service, pulled).chmod(0o600)
    _object(service, pulled).write_bytes(b"")
    # What the tag names by now is not what is fetched.
    layout.add_image("broken", [])
    booted(service)
    expect_log("als.service")
    recover(service)
    assert any("broken" in line and "bytes instead of" in line for line in caplog.messages)
    assert not service.layers.has(pulled.config.diff_ids[1])
    heal(service, threading.Event())
    assert service.layers.has(pulled.config.diff_ids[1])
    ref = service.ref_of(broken)
    assert ref is not None and (ref.digest, ref.listed) == (pulled.digest, pulled.digest)
    assert fsck(service, deep=True).found == ()


def test_a_sound_store_is_looked_through_once_after_a_boot(service: Service, layout: Layout) -> None:
    pulled = pull(service, image(layout, "one", "a", "b"))
    recover(service)
    _object(service, pulled).unlink()
    recover(service)
    assert service.layers.has(pulled.config.diff_ids[1]), "files are not looked at again before the next boot"


def test_an_object_that_is_lost_in_one_place_is_linked_again(
    service: Service, layout: Layout, expect_log: ExpectedLogs
) -> None:
    pulled = pull(service, image(layout, "one", "a", "b"))
    lost = _object(service, pulled)
    lost.unlink()
    booted(service)
    expect_log("als.service")
    recover(service)
    assert lost.exists()
    assert fsck(service, deep=True).found == ()


def test_a_damaged_list_of_clients_keeps_everything(service: Service, layout: Layout, expect_log: ExpectedLogs) -> None:
    """The start goes on; but nobody knows who else may use what would be removed."""
    pulled = pull(service, image(layout, "one", "a"))
    service.images.forget(service.images.refs()[0].reference)
    service.layout.clients.write_bytes(b"{")
    expect_log("als.service")
    recover(service)
    with pytest.raises(StoreDamaged, match=r"clients\.json"):
        collect(service)
    assert service.layers.has(pulled.config.diff_ids[0])
    assert [problem.kind for problem in fsck(service, repair=True).found] == ["clients"]
    assert collect(service).layers == pulled.config.diff_ids


def test_stale_temporary_files_are_removed(service: Service, layout: Layout) -> None:
    pulled = pull(service, image(layout, "one", "a"))
    layer, kept = service.layout.layer(pulled.config.diff_ids[0]), service.layout.images / pulled.digest.hex
    stale = [service.layout.uses / ".x.json.1", service.layout.refs / ".y.json.1", layer / ".layer.json.1", kept / ".index-1"]
    for path in stale:
        path.write_bytes(b"{")
    recover(service)
    assert [path for path in stale if path.exists()] == []
    assert fsck(service, deep=True).found == ()


def test_a_start_beside_somebody_who_works_repairs_nothing(service: Service, layout: Layout, expect_log: ExpectedLogs) -> None:
    kept, broken = image(layout, "kept", "a"), image(layout, "broken", "b")
    pull(service, kept)
    ref = _ref(service, pull(service, broken))
    ref.write_bytes(b"{")
    expect_log("als.service")
    with sharing(service.layout.lock):
        recover(service)
    assert ref.exists()
    recover(service)
    assert not ref.exists() and len(service.images.refs()) == 1


def test_a_store_whose_version_was_never_written(service: Service, layout: Layout) -> None:
    pull(service, image(layout, "one", "a"))
    (service.layout.root / "version").write_bytes(b"")
    with Service(service.config) as restarted:
        assert fsck(restarted, deep=True).found == ()


def test_a_lazy_layer_that_was_never_written(service: Service, expect_log: ExpectedLogs) -> None:
    folder = service.layout.lazy / ("a" * 64)
    folder.mkdir()
    (folder / "lazy.json").write_bytes(b"")
    expect_log("als.service")
    booted(service)
    recover(service)
    assert not folder.exists()
    shutil.rmtree(service.layout.quarantine)
