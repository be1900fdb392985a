"""A pull killed between any two steps of publication: clients can use all that is listed, and the next pull completes it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from als.imagestore.check import faults
from als.imagestore.records import PublishedLayer
from als.model.reference import parse_reference
from als.mount.table import read_mounts
from als.service import Service
from als.service.recovery import recover
from als.service.removal import collect
from als.service.repair import fsck
from als.store.images import ImageRecord
from als.store.layout import TarSplitForm
from tests.formats.tocbuilder import estargz, file
from tests.harness.ocilayout import LayerBlob, Layout
from tests.harness.system import run
from tests.imagestore.shop import in_sight
from tests.life.conftest import Alone
from tests.life.killed_pull import DIES
from tests.life.stores import contents


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whose policy takes any image."""
    folder = tmp_path / "home" / ".config" / "containers"
    folder.mkdir(parents=True)
    (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


def annotated(layout: Layout, name: str) -> LayerBlob:
    """A layer with a table of contents."""
    layer = estargz([file(name, name.encode() * 500)])
    digest, size = layout.add_blob(layer.blob)
    return LayerBlob(digest, size, layer.diff_id, layer.descriptor.media_type, dict(layer.descriptor.annotations))


def killed_after(service: Service, reference: str, steps: int) -> list[str] | None:
    """Pull in a process of its own that dies before a step: None; or all steps, if there were not as many."""
    where = (str(service.layout.root), str(service.config.run))
    command = [sys.executable, "-m", "tests.life.killed_pull", *where, reference, str(steps)]
    done = run(*command, status=None)
    assert done.returncode in (0, DIES), done.stderr.decode()
    return None if done.returncode == DIES else done.stdout.decode().splitlines()


def withdraw(service: Service, reference: str) -> None:
    """Leave of an image what it was before its publication: complete layers."""
    ref = service.ref_of(reference)
    if ref is not None:
        service.images.forget(ref.reference)
    for store in service.image_stores:
        store.images.update(list)
        store.unpublish(list(store.published()))
        store.unpublish(store.unlisted())
    for diff_id in service.layers.ids():
        for form in TarSplitForm:
            service.layers.tar_split(diff_id, form).unlink(missing_ok=True)
        service.layers.owners(diff_id).unlink(missing_ok=True)


def check_what_is_listed(service: Service) -> None:
    """A client that comes now: each layer in a list is whole, and each image in one has its layers and files."""
    mounts = read_mounts()
    for store in service.image_stores:
        entries = store.published()
        assert in_sight(store) == entries.keys()
        for entry in entries.values():
            assert list(faults(store, PublishedLayer.from_json(entry), entries, mounts)) == []
        for image in json.loads(store.images.list_file.read_bytes()):
            assert image["layer"] in entries
            folder = store.images.list_file.parent / image["id"]
            sizes = sorted(path.stat().st_size for path in folder.iterdir() if not path.name.startswith("."))
            assert sizes == sorted(image["big-data-sizes"].values())


def check_what_is_known(service: Service, reference: str, image: ImageRecord) -> None:
    """A client that finds all layers in a list asks als for none of them: als has to know the image by then."""
    for store in service.image_stores:
        if store.published().keys() >= set(image.chain):
            assert service.ref_of(reference) is not None, store.layout


def test_killed_at_any_step_of_publication(service: Service, layout: Layout, home: Path) -> None:
    layout.add_image("one", [annotated(layout, "a"), annotated(layout, "b")])
    reference = layout.name("one")
    image = service.pull(parse_reference(reference), asked=True)
    whole = contents(service.layout.root)
    withdraw(service, reference)
    steps = killed_after(service, reference, 1_000_000)
    assert steps is not None and contents(service.layout.root) == whole
    # Of every kind of step the first one, and of what remains a sample; what differs in names alone is of one kind.
    kinds = [re.sub(r"[0-9a-f]{8,}|[0-9A-Z]{26}|\d+", "*", step) for step in steps]
    assert {kind.split()[0] for kind in kinds} >= {"link", "symlink", "mkdir", "rename", "mount", "fsync"}
    chosen = {kinds.index(kind) for kind in kinds} | set(range(0, len(steps), 7))
    for number in sorted(chosen):
        withdraw(service, reference)
        # Layers that become ready at one moment are published together, in fewer steps.
        assert killed_after(service, reference, number) is None or number > len(steps) * 2 // 3, steps[number]
        check_what_is_listed(service)
        check_what_is_known(service, reference, image)
        # Once without a restart, once with one.
        if number % 2:
            with Service(service.config) as restarted:
                recover(restarted)
        check_what_is_listed(service)
        service.pull(parse_reference(reference), asked=True)
        assert fsck(service, deep=True).found == (), steps[number]
        collect(service)
        assert contents(service.layout.root) == whole, steps[number]


def test_podman_pulls_whatever_state_als_was_killed_in(service: Service, home: Path, alone: Alone) -> None:
    """podman with the store of an `als` that died and does not come back: it takes what is listed, and downloads the rest."""
    reference = alone.reference
    service.pull(parse_reference(reference), asked=True)
    withdraw(service, reference)
    steps = killed_after(service, reference, 1_000_000)
    assert steps is not None
    # Where the list appears, and what comes before and after.
    moment = next(number for number, step in enumerate(steps) if step.endswith(f"{alone.store.root.name}/state"))
    for number in (moment // 2, moment - 1, moment, moment + 1, moment + 4, moment + 20):
        withdraw(service, reference)
        assert killed_after(service, reference, number) is None
        alone.podman.pull(alone.pushed)
        assert alone.reads_all(), steps[number]
        alone.podman("rmi", alone.pushed)
