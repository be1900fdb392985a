"""The daemon's slow look at all objects: what it finds, says, mends and remembers."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from als.config import Config
from als.model.digest import Digest
from als.model.reference import parse_reference
from als.service import Service
from als.service.repair import fsck
from als.service.scrub import Scrub, scrub
from tests.harness.ocilayout import Layout, TarBuilder
from tests.harness.policy import ExpectedLogs
from tests.harness.system import wait_until

FILES = {f"file{number}": b"content %d" % number * 50 for number in range(6)}


@pytest.fixture
def config(config: Config) -> Config:
    return replace(config, scrub_rate=10_000_000_000)


@pytest.fixture
def pulled(service: Service, layout: Layout) -> Service:
    tar = TarBuilder()
    for name, data in FILES.items():
        tar.file(name, data)
    layout.add_image("a", [layout.add_layer(tar.build())])
    service.pull(parse_reference(layout.name("a")))
    return service


def objects(service: Service) -> list[Path]:
    """In the order in which they are looked at."""
    return sorted(service.layout.object(bytes.fromhex(Digest.of(data).hex)) for data in FILES.values())


def damage(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"something else")


def state(service: Service) -> dict[str, object]:
    return dict(json.loads(service.layout.scrub.read_bytes()))


def test_a_sound_store(pulled: Service) -> None:
    scrub(pulled, threading.Event())
    assert state(pulled)["next"] == ""


def test_damage_is_named_and_mended(pulled: Service, expect_log: ExpectedLogs, layout: Layout) -> None:
    expect_log(f"has another content .*/file.* of layer sha256:.*image {layout.name('a')}")
    expect_log("was replaced by a sound one")
    path = objects(pulled)[2]
    damage(path)
    scrub(pulled, threading.Event())
    assert Digest.of(path.read_bytes()).hex == path.parent.name + path.name
    assert len(expect_log.records) == 2
    assert fsck(pulled, deep=True).found == ()


def test_what_cannot_be_had_is_said(pulled: Service, expect_log: ExpectedLogs, layout: Layout) -> None:
    expect_log("has another content")
    expect_log("is not to be had again from")
    expect_log("is not replaced: ")
    layout.folder.rename(layout.folder.with_name("gone"))
    damage(objects(pulled)[0])
    scrub(pulled, threading.Event())
    assert len(expect_log.records) == 3


def test_it_goes_on_where_it_stopped(pulled: Service, expect_log: ExpectedLogs) -> None:
    expect_log("has another content")
    expect_log("was replaced by a sound one")
    first, *_, last = objects(pulled)
    pulled.layout.scrub.write_text(json.dumps({"next": last.parent.name + last.name, "begun": 5.0}))
    damage(first)
    scrub(pulled, threading.Event())
    assert state(pulled) == {"next": "", "begun": 5.0}
    assert not expect_log.records, "it was looked at before the stop"
    scrub(pulled, threading.Event())
    assert len(expect_log.records) == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"next": "zz"}', '{"next": "00", "begun": "x"}'])
def test_a_damaged_note_is_no_obstacle(pulled: Service, text: str) -> None:
    pulled.layout.scrub.write_text(text)
    scrub(pulled, threading.Event())
    assert state(pulled)["next"] == ""


def test_a_stop_is_noted(pulled: Service) -> None:
    stopping = threading.Event()
    stopping.set()
    scrub(pulled, stopping)
    assert state(pulled)["next"] == objects(pulled)[0].parent.name + objects(pulled)[0].name


def test_the_thread(pulled: Service) -> None:
    with Scrub(pulled) as scrubbing:
        scrubbing.begin()
        wait_until(pulled.layout.scrub.exists, "a pass")
    with Scrub(pulled):
        pass


def test_switched_off(pulled: Service) -> None:
    pulled.config = replace(pulled.config, scrub_rate=0)
    with Scrub(pulled) as scrubbing:
        scrubbing.begin()
    assert not pulled.layout.scrub.exists()


def test_where_nobody_tells_what_is_cached_nothing_is_damaged(pulled: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """As below a filter of system calls: mincore(2) and cachestat(2) are in none of systemd's usual sets."""

    def refused(_fd: int) -> int:
        raise PermissionError

    monkeypatch.setattr("als.service.scrub.cached_bytes", refused)
    scrub(pulled, threading.Event())
    assert state(pulled)["next"] == ""
