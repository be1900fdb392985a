"""Which images the image stores list, and when."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.config import LAYOUTS, Config
from als.errors import PolicyDenied
from als.model.digest import Digest
from als.model.reference import parse_reference
from als.service import Service
from als.service.fsck import Remedy
from als.service.recovery import recover
from als.service.removal import collect, remove
from als.service.repair import fsck
from als.store.images import ImageRecord
from tests.harness.ocilayout import ARCHITECTURE, Layout, TarBuilder
from tests.harness.policy import ExpectedLogs
from tests.harness.registry import RegistryServer


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of containers/*'s settings of a user whose policy takes any image."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / ".config" / "containers"
    folder.mkdir(parents=True)
    set_policy(folder, {"default": [{"type": "insecureAcceptAnything"}]})
    return folder


def set_policy(folder: Path, policy: dict[str, object]) -> None:
    (folder / "policy.json").write_text(json.dumps(policy))


@pytest.fixture
def registry(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "registry") as server:
        conf = tmp_path / "registries.conf"
        conf.write_text(f'[[registry]]\nlocation = "{server.address}"\ninsecure = true\n')
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        yield server


@pytest.fixture
def reference(registry: RegistryServer, layout: Layout) -> str:
    layout.add_image("one", [layout.add_layer(TarBuilder().file("a", b"a" * 5000).build())])
    return registry.push(layout.name("one"), "one:1")


def pull(service: Service, reference: str, *, asked: bool = True) -> ImageRecord:
    return service.pull(parse_reference(reference), asked=asked)


def listed(service: Service) -> dict[str, list[str]]:
    """The names of each listed image by ID; both stores must list the same."""
    found = [json.loads(store.images.list_file.read_bytes()) for store in service.image_stores]
    names = [{image["id"]: image.get("names", []) for image in entries} for entries in found]
    assert names[0] == names[1]
    return dict(names[0])


def config_id(image: ImageRecord) -> str:
    return image.manifest.config.digest.hex


def test_what_was_asked_for(service: Service, reference: str) -> None:
    image = pull(service, reference)
    assert listed(service) == {config_id(image): [reference]}
    remove(service, reference)
    assert listed(service) == {}, "at once, although its layers stay until gc"
    assert service.diff_n.published()
    assert fsck(service, deep=True).found == ()


def test_what_a_client_pulled(service: Service, reference: str) -> None:
    image = pull(service, reference, asked=False)
    assert listed(service) == {}
    pull(service, reference)
    assert listed(service) == {config_id(image): [reference]}
    pull(service, reference, asked=False)
    assert listed(service) == {config_id(image): [reference]}, "it was asked for once"
    remove(service, reference)
    pull(service, reference, asked=False)
    assert listed(service) == {}, "it was removed since"


def test_two_names_and_a_tag_that_moves(service: Service, reference: str, registry: RegistryServer, layout: Layout) -> None:
    image = pull(service, reference)
    second = registry.push(layout.name("one"), "other:2")
    pull(service, second)
    assert listed(service) == {config_id(image): sorted([reference, second])}
    layout.add_image("new", [layout.add_layer(TarBuilder().file("b", b"b" * 5000).build())])
    registry.push(layout.name("new"), "other:2")
    moved = pull(service, second, asked=False)
    assert listed(service) == {config_id(image): [reference], config_id(moved): [second]}
    remove(service, second)
    assert listed(service) == {config_id(image): [reference]}
    collect(service)
    assert listed(service) == {config_id(image): [reference]}
    assert fsck(service, deep=True).found == ()


def test_by_digest(service: Service, reference: str) -> None:
    digest = service.pull(parse_reference(reference)).digest
    by_digest = f"{reference.rpartition(':')[0]}@{digest}"
    image = pull(service, by_digest)
    assert listed(service) == {config_id(image): [by_digest]}


def test_an_index_is_kept_byte_for_byte(service: Service, layout: Layout, home: Path, expect_log: ExpectedLogs) -> None:
    inner = layout.add_image("inner", [layout.add_layer(TarBuilder().file("a", b"a" * 5000).build())])
    listed_digest = layout.add_index("multi", {ARCHITECTURE[platform.machine()]: inner})
    data = layout.blob(listed_digest).read_bytes()
    reference = layout.name("multi")
    image = pull(service, reference)
    ref = service.ref_of(reference)
    assert ref is not None and ref.listed == Digest.of(data) != image.digest
    assert service.images.index(image.digest, ref.listed) == data
    for store in service.image_stores:
        (entry,) = json.loads(store.images.list_file.read_bytes())
        assert entry["digest"] == str(ref.listed)
        assert entry["big-data-digests"][f"manifest-{ref.listed}"] == str(ref.listed)
    expect_log("the index has changed")
    (service.layout.images / image.digest.hex / f"index-{ref.listed.hex}").write_bytes(b"changed")
    assert Remedy.QUARANTINE_FILE in {problem.remedy for problem in fsck(service).found}


def test_where_signatures_are_wanted_layers_alone_are_published(service: Service, reference: str, home: Path) -> None:
    set_policy(home, {"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/key"}]})
    image = pull(service, reference)
    assert listed(service) == {}
    assert set(image.chain) <= service.composefs.published().keys()
    set_policy(home, {"default": [{"type": "insecureAcceptAnything"}]})
    pull(service, reference, asked=False)
    assert listed(service) == {config_id(image): [reference]}


def test_what_the_policy_rejects_is_not_pulled(service: Service, reference: str, home: Path) -> None:
    set_policy(home, {"default": [{"type": "reject"}]})
    with pytest.raises(PolicyDenied, match="rejected"):
        pull(service, reference)
    assert service.images.refs() == [] and service.layers.ids() == []


def test_a_policy_that_changes_is_heeded_at_the_next_start(service: Service, reference: str, home: Path) -> None:
    image = pull(service, reference)
    set_policy(home, {"default": [{"type": "reject"}]})
    recover(service)
    assert listed(service) == {}
    set_policy(home, {"default": [{"type": "insecureAcceptAnything"}]})
    recover(service)
    assert listed(service) == {config_id(image): [reference]}


def test_a_policy_that_cannot_be_read(service: Service, reference: str, home: Path, expect_log: ExpectedLogs) -> None:
    pull(service, reference)
    expect_log("is not listed")
    (home / "policy.json").write_text("{")
    recover(service)
    assert listed(service) == {}


def test_a_list_that_was_changed_is_made_anew(service: Service, reference: str) -> None:
    image = pull(service, reference)
    service.composefs.images.list_file.write_bytes(b"[]")
    assert [(problem.layout, problem.remedy) for problem in fsck(service).found] == [("composefs", Remedy.LIST)]
    assert fsck(service, repair=True).remaining == ()
    assert listed(service) == {config_id(image): [reference]}


def test_images_are_published_in_the_layouts_that_are_set(tmp_path: Path, reference: str, as_root: None) -> None:
    for layout in LAYOUTS:
        config = Config(tmp_path / layout, tmp_path / "run", worker_user="65534", layouts=(layout,))
        with Service(config) as service:
            pull(service, reference)
            for store in service.image_stores:
                assert bool(store.published()) == (store.layout == layout)
                assert json.loads(store.images.list_file.read_bytes()) != [] or store.layout != layout
            assert fsck(service, deep=True).found == ()
            service.diff_n.unmount_all()


def test_layouts_follow_from_storage_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path, as_root: None) -> None:
    root = tmp_path / "root"
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    for folders, layouts in (([], LAYOUTS), (["is4"], ("diffN",)), (["image-store"], ("composefs",))):
        named = json.dumps([f"{root}/{folder}/" for folder in folders])
        (tmp_path / "storage.conf").write_text(f"[storage.options]\nadditionalimagestores = {named}\n")
        with Service(Config(root, tmp_path / "run", worker_user="65534")) as service:
            assert tuple(store.layout for store in service.publishing) == layouts
