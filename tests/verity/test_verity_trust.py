"""`als inspect --verify`: every link that is broken is found, and by its name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from als.config import LAYOUTS, Config
from als.model.forest import FOREST
from als.model.reference import parse_reference
from als.service import Service
from als.service.trust import State, verify_image
from als.store.images import ImageRecord
from tests.harness.ocilayout import Layout, TarBuilder
from tests.harness.system import run, unmount_below

DATA = b"d" * 5000


@pytest.fixture
def config(tmp_path: Path) -> Config:
    root = tmp_path / "a"
    return Config(root=root, run=tmp_path / "run", worker_user="65534", layouts=LAYOUTS, verity="off")


@pytest.fixture
def service(config: Config, as_root: None) -> Iterator[Service]:
    try:
        with Service(config) as opened:
            yield opened
    finally:
        unmount_below(config.root)


@pytest.fixture
def image(service: Service, tmp_path: Path) -> ImageRecord:
    layout = Layout(tmp_path / "images")
    tars = [TarBuilder().directory("etc").file("etc/data", DATA).file("etc/small", b"s").symlink("link", "etc").build()]
    tars.append(TarBuilder().whiteout("link").file("etc/more", b"m" * 300).hardlink("etc/name", "etc/more").build())
    layout.add_image("a", [layout.add_layer(tar) for tar in tars])
    return service.pull(parse_reference(layout.name("a")))


def states(service: Service, image: ImageRecord) -> dict[str, set[State]]:
    found: dict[str, set[State]] = {}
    for link in verify_image(service, image):
        found.setdefault(link.name, set()).add(link.state)
    return found


def test_all_links_of_an_unsealed_image(service: Service, image: ImageRecord) -> None:
    ok = {State.OK}
    expected = {"manifest": ok, "config": ok, "layer": ok, "names": ok, "objects": {State.OPEN}, "is4": ok, "image-store": ok}
    assert states(service, image) == expected
    # Looking changes nothing.
    assert not list(service.layout.tmp.iterdir())
    assert states(service, image) == expected


def damaged_object(service: Service, image: ImageRecord) -> None:
    path = next(path for path in service.layout.objects.rglob("*") if path.is_file() and path.stat().st_size == len(DATA))
    path.chmod(0o644)
    path.write_bytes(DATA[:-1] + b"!")


def lost_object(service: Service, image: ImageRecord) -> None:
    next((service.layers.forest(image.config.diff_ids[0]) / FOREST).iterdir()).unlink()


def changed_image(service: Service, image: ImageRecord) -> None:
    """A mode: what the layer's stream does not say."""
    path = service.layers.image(image.config.diff_ids[1])
    other = service.layers.image(image.config.diff_ids[0])
    path.write_bytes(other.read_bytes())


def changed_config(service: Service, image: ImageRecord) -> None:
    path = service.layout.images / image.digest.hex / "config"
    path.write_bytes(path.read_bytes() + b" ")


def unpublished(service: Service, image: ImageRecord) -> None:
    service.diff_n.unpublish([image.chain[1]])


def emptied_forest(service: Service, image: ImageRecord) -> None:
    for path in (service.composefs.folder(image.chain[0]) / "diff" / FOREST).iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "name", "state"),
    [
        (damaged_object, "layer", State.FAILED),
        (lost_object, "layer", State.FAILED),
        (changed_image, "names", State.FAILED),
        (changed_config, "config", State.FAILED),
        (unpublished, "is4", State.OPEN),
        (emptied_forest, "image-store", State.FAILED),
    ],
)
def test_a_broken_link_is_named(
    service: Service, image: ImageRecord, harm: Callable[[Service, ImageRecord], None], name: str, state: State
) -> None:
    harm(service, image)
    found = states(service, service.images.get(image.digest))
    assert state in found[name]


def test_the_verb_tells_of_all_links_and_fails_with_one(config: Config, service: Service, image: ImageRecord) -> None:
    damaged_object(service, image)
    command = [sys.executable, "-m", "als", "--root", str(config.root), "--run", str(config.run)]
    done = run(*command, "inspect", "--verify", "--json", str(image.digest), status=6)
    links = json.loads(done.stdout)
    assert [link["of"] for link in links if link["state"] == "FAILED"] == [str(image.config.diff_ids[0])]
    assert {link["link"] for link in links} == {"manifest", "config", "layer", "names", "objects", "is4", "image-store"}


def test_required_sealing_makes_an_unsealed_image_an_error(config: Config, service: Service, image: ImageRecord) -> None:
    file = config.root.with_name("als.toml")
    file.write_text('verity = "require"\n')
    command = [sys.executable, "-m", "als", "--config", str(file), "--root", str(config.root), "--run", str(config.run)]
    done = run(*command, "inspect", "--verify", str(image.digest), status=6)
    assert b"not sealed with fs-verity" in done.stdout
