"""Counts of what clients hold: right again whatever happened to a client, to a record, or to the daemon between two steps."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from als.imagestore.graphroot import read_lookups
from als.service import Service
from als.service.recovery import recover
from als.service.removal import collect, settle_uses
from als.store.images import ImageRecord
from als.store.liveness import LEASE_SECONDS, Claims, settled
from als.store.uptime import Uptime
from als.store.uses import Use, Uses
from tests.harness import faults
from tests.harness.ocilayout import Layout
from tests.harness.policy import ExpectedLogs
from tests.life.stores import image, pull

OLD, NOW = Uptime("a", 1000.0), Uptime("a", 1000.0 + LEASE_SECONDS)


def test_a_count_that_nobody_accounts_for_is_lowered_when_it_is_old() -> None:
    old, new = Use("r", "d", 2, OLD), Use("r", "e", 2, Uptime("a", 1001.0))
    claims = Claims(lookups={("r", "d"): 1})
    assert settled([old, new], claims, NOW) == [(old, 1)]
    assert settled([old, new], replace(claims, unknown=("a disk is away",)), NOW) == []


def test_a_count_that_was_lost_is_raised_at_once_whatever_else_is_unknown() -> None:
    claims = Claims(lookups={("r", "d"): 2, ("r", "e"): 1}, unknown=("a disk is away",))
    low = Use("r", "d", 1, NOW)
    assert settled([low], claims, NOW) == [(low, 2), (Use("r", "e", 0), 1)]
    assert settled([Use("r", "d", 2, NOW), Use("r", "e", 1, OLD)], claims, NOW) == []


def test_a_boot_ends_what_no_client_has_written_down() -> None:
    """Who was pulling then is gone."""
    use = Use("r", "d", 2, replace(NOW, boot="b"))
    assert settled([use], Claims(lookups={("r", "d"): 1}), NOW) == [(use, 1)]


class Client:
    """A graph root with layers from the store, as containers/storage notes them."""

    def __init__(self, service: Service, path: Path) -> None:
        self.path = path
        self._store = service.layout.mount_point

    def hold(self, reference: str, digest: str, layer: str = "x") -> Path:
        folder = self.path / "overlay" / layer
        folder.mkdir(parents=True)
        name = base64.b64encode(reference.encode()).decode()
        (folder / "additionallayer").write_text(f"{self._store}/{name}/{digest}")
        return folder


@pytest.fixture
def client(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    (tmp_path / "storage.conf").write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{tmp_path}/g"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    found = Client(service, tmp_path / "g")
    (found.path / "overlay-layers").mkdir(parents=True)
    return found


@pytest.fixture
def taken(service: Service, layout: Layout) -> tuple[str, str, ImageRecord]:
    """A reference, the digest of one of its layers, and the image; nobody but a client's count holds it."""
    pulled = pull(service, image(layout, "one", "a", "b"))
    reference = service.images.refs()[0].reference
    service.images.forget(reference)
    return reference, str(pulled.manifest.layers[0].digest), pulled


def age(service: Service) -> None:
    """Let the grace of all counts be over."""
    for path in service.layout.uses.glob("*.json"):
        record = json.loads(path.read_bytes())
        record["changed"]["seconds"] -= LEASE_SECONDS + 1
        path.write_text(json.dumps(record))


def counts(service: Service) -> list[int]:
    return [use.count for use in service.uses.all()]


def test_what_a_client_notes_is_read(service: Service, client: Client, tmp_path: Path) -> None:
    client.hold("host/name:tag", "sha256:1", "x")
    client.hold("host/name:tag", "sha256:1", "y")
    (client.path / "overlay" / "z").mkdir()
    (client.path / "overlay" / "z" / "additionallayer").write_text("/not base64!/sha256:2")
    os.mkfifo(client.path / "overlay" / "l")
    assert read_lookups(client.path) == {("host/name:tag", "sha256:1"): 2}
    assert read_lookups(tmp_path / "nothing") == {}


def test_a_gesture_that_was_counted_twice(service: Service, client: Client, taken: tuple[str, str, ImageRecord]) -> None:
    reference, digest, pulled = taken
    client.hold(reference, digest)
    service.uses.change(reference, digest, +2)
    assert settle_uses(service) == 0, "a pull may be under way"
    age(service)
    collect(service)
    assert counts(service) == [1]
    assert service.layers.ids() == [pulled.config.diff_ids[0]]


def test_a_client_that_was_killed(service: Service, client: Client, taken: tuple[str, str, ImageRecord]) -> None:
    """podman dies in the middle of a pull: what it held is given back, but not before it may have gone on."""
    reference, digest, pulled = taken
    service.uses.change(reference, digest, +1)
    assert collect(service).layers == (pulled.config.diff_ids[1],)
    age(service)
    assert collect(service).layers == (pulled.config.diff_ids[0],)
    assert counts(service) == []


def test_a_graph_root_that_was_deleted(
    service: Service, client: Client, taken: tuple[str, str, ImageRecord], expect_log: ExpectedLogs
) -> None:
    reference, digest, _ = taken
    client.hold(reference, digest)
    service.uses.change(reference, digest, +1)
    service.clients.note()
    age(service)
    assert settle_uses(service) == 0
    away = client.path.rename(client.path.with_name("away"))
    # As if the disk were not mounted: the path is gone, and its file system was another one.
    expect_log("everything that is published stays")
    seen = service.layout.clients.read_text()
    service.layout.clients.write_text(seen.replace(f'"{client.path}": ', f'"{client.path}": 1'))
    assert settle_uses(service) == 0 and counts(service) == [1]
    service.layout.clients.write_text(seen)
    shutil.rmtree(away)
    assert settle_uses(service) == 1 and counts(service) == []


def test_a_record_that_was_damaged(
    service: Service, client: Client, taken: tuple[str, str, ImageRecord], expect_log: ExpectedLogs
) -> None:
    """The client's own notes bring it back."""
    reference, digest, pulled = taken
    client.hold(reference, digest)
    client.hold("host/foreign:1", f"sha256:{'f' * 64}", "y")
    service.uses.change(reference, digest, +1)
    (path,) = service.layout.uses.glob("*.json")
    path.write_bytes(b"{")
    expect_log("als.service")
    recover(service)
    assert counts(service) == []
    assert settle_uses(service) == 1, "a foreign store's layer is not ours to count"
    assert service.uses.all() == [Use(reference, digest, 1)]
    assert pulled.config.diff_ids[0] not in collect(service).layers


def test_what_changes_meanwhile_is_left_alone(service: Service) -> None:
    service.uses.change("r", "d", +1)
    (seen,) = service.uses.all()
    service.uses.change("r", "d", +1)
    assert not service.uses.settle(seen, 0)
    assert counts(service) == [2]


CHANGE = """
import sys
from pathlib import Path
from als.store.layout import Layout
from als.store.uses import Uses
Uses(Layout(Path(sys.argv[1]))).change("r", "d", int(sys.argv[2]))
"""


@pytest.mark.parametrize("by", [+1, -1])
@pytest.mark.parametrize("before", [1, 2])
def test_killed_between_any_two_steps(service: Service, by: int, before: int) -> None:
    """The count is the old one or the new one, and the next change counts on from there."""
    root = service.layout.root
    command = (sys.executable, "-c", CHANGE, str(root), str(by))
    uses = Uses(service.layout)
    uses.change("r", "d", before)
    below = faults.Below(root)
    points = faults.points(command, below, ("openat", "write", "fsync", "rename", "unlink"))
    assert {point.syscall for point in points} >= ({"fsync", "rename"} if before + by else {"unlink", "fsync"})
    for point in points:
        uses.change("r", "d", before - uses.count("r", "d"))
        assert faults.killed(command, point)
        assert uses.count("r", "d") in (before, before + by), point
        uses.sweep()
        assert [path.name for path in service.layout.uses.iterdir() if path.name.startswith(".")] == []
