"""``als status``, ``als wait`` and the state in ``als images``: with a daemon, and by what the store alone tells."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.cli.progress import Lines
from als.cli.wait import Awaited, Shown
from als.control.client import Told
from als.errors import DeadlineExceeded
from als.lazy.record import LazyRecord
from als.model.digest import Digest
from als.model.manifest import Descriptor, toc_digest
from als.model.status import ImageStatus, LayerStatus, State
from als.store.images import Images
from als.store.layout import Layout as StoreLayout
from tests.formats.tocbuilder import estargz, file, zstd_podman
from tests.harness.als import AlsDaemon
from tests.harness.lazyimages import MANIFEST, image_of, keep
from tests.harness.ocilayout import Image, Layout, TarBuilder
from tests.harness.podman import insecure_registries
from tests.harness.system import wait_until
from tests.lazy.faultyregistry import Answer, FaultyRegistry
from tests.lazy.site import blobs_of, noise

SAMPLE = estargz([file("x", b"x" * 100)])
LAZY = "r.io/lazy:1"


@pytest.fixture(scope="module")
def layout(module_dir: Path) -> Layout:
    return Layout(module_dir / "layout")


@pytest.fixture(scope="module")
def small(layout: Layout) -> Image:
    tars = [TarBuilder().file(name, name.encode() * 100).build() for name in ("one", "two")]
    return layout.add_image("small", [layout.add_layer(tar) for tar in tars])


@pytest.fixture
def als(as_root: None, tmp_path: Path) -> Iterator[AlsDaemon]:
    """Not started."""
    daemon = AlsDaemon(tmp_path / "d")
    try:
        yield daemon
    finally:
        daemon.close()


@pytest.fixture
def lazy(als: AlsDaemon) -> Path:
    """The folder of a lazy layer, as a daemon leaves it that has ended; the layer's image is recorded."""
    return leave_lazy(als)


def leave_lazy(als: AlsDaemon) -> Path:
    """As much of a lazy layer as is looked at by who does not serve it; a start would take it for damaged."""
    layout = StoreLayout(als.root)
    layout.create()
    keep(Images(layout), LAZY, image_of(SAMPLE))
    folder = layout.lazy / ("ab" * 32)
    folder.mkdir()
    record = LazyRecord(LAZY, SAMPLE.descriptor, Digest.parse(SAMPLE.diff_id), "estargz", "")
    (folder / "lazy.json").write_text(json.dumps(record.to_json()))
    return folder


@pytest.mark.parametrize("running", [True, False], ids=["daemon", "alone"])
def test_sealed_images(als: AlsDaemon, layout: Layout, small: Image, running: bool) -> None:
    if running:
        als.start()
    name = layout.name("small")
    als.cli("pull", name)
    (listed,) = als.json("images")
    size = sum(layer["diff_size"] for layer in als.json("layers"))
    assert (listed["state"], listed["percent"], listed["size"]) == ("sealed", 100, size)
    header, row = als.cli("images").stdout.decode().splitlines()
    assert row[header.index("STATE") :].startswith("sealed")
    done = als.cli("status")
    assert done.stdout.splitlines()[0] == b"everything is sealed"
    assert (b"no daemon runs" in done.stderr) is not running
    assert als.json("status")["images"] == []
    shown = als.json("status", name)
    assert shown["daemon"]["answers"] is running
    (image,) = shown["images"]
    assert (image["digest"], image["state"], image["references"]) == (small.digest, "sealed", [name])
    assert [layer["digest"] for layer in image["layers"]] == [layer.digest for layer in small.layers]
    assert {layer["state"] for layer in image["layers"]} == {"sealed"}
    told = als.cli("status", small.digest).stdout.decode().splitlines()
    assert told[0] == name
    assert told[1] == f"{small.digest}: sealed"
    assert [line.split()[2] for line in told[4:]] == ["sealed", "sealed"]
    for options in ((), ("-q",), ("--no-fill",), ("--timeout", "0")):
        waited = als.cli("wait", *options, name)
        assert waited.stdout == b""
        assert (b"already here" in waited.stderr) is (running and "-q" not in options)


def test_a_lazy_image_without_a_daemon(als: AlsDaemon, lazy: Path) -> None:
    (listed,) = als.json("images")
    assert (listed["state"], listed["percent"]) == ("lazy", None)
    done = als.cli("images")
    assert b"  lazy  " in done.stdout
    assert b"no daemon runs; how much of lazy images is here is not known" in done.stderr
    done = als.cli("status")
    assert LAZY.encode() in done.stdout
    assert b"no daemon runs" in done.stderr
    (image,) = als.json("status")["images"]
    assert (image["state"], image["layers"][0]["bytes"]) == ("lazy", None)
    waited = als.cli("wait", LAZY, status=1)
    assert waited.stderr.decode().splitlines()[0] == f"als: {LAZY}: no daemon runs, and the image is lazy"
    assert b"als serve" in waited.stderr


def test_a_refused_image(als: AlsDaemon, lazy: Path) -> None:
    (lazy / "refused").write_text("other bytes came\n")
    for running in (False, True):
        if running:
            als.start()
        assert als.json("images")[0]["state"] == "refused"
        assert b"other bytes came" in als.cli("status", LAZY).stdout
        waited = als.cli("wait", "--timeout", "30", LAZY, status=5)
        assert b"the layer was refused: other bytes came" in waited.stderr
        assert b"Traceback" not in waited.stderr


def test_a_layer_that_is_not_here(als: AlsDaemon, lazy: Path) -> None:
    shutil.rmtree(lazy)
    for running in (False, True):
        if running:
            als.start()
        assert als.json("images")[0]["state"] == "incomplete"
        assert [layer["state"] for layer in als.json("status", LAZY)["images"][0]["layers"]] == ["missing"]
        waited = als.cli("wait", LAZY, status=3)
        assert b"nobody fetches it" in waited.stderr
        assert b"als pull" in waited.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["status", "nothing"], 3, b"als images"),
        (["wait", "nothing"], 3, b"als images"),
        (["wait"], 2, b"IMAGE"),
        (["wait", "--timeout", "-1", "x"], 2, b"timeout"),
    ],
)
@pytest.mark.parametrize("running", [True, False], ids=["daemon", "alone"])
def test_errors(als: AlsDaemon, running: bool, arguments: list[str], status: int, says: bytes) -> None:
    if running:
        als.start()
    done = als.cli(*arguments, status=status)
    assert says in done.stderr
    assert (done.stdout, b"Traceback" in done.stderr) == (b"", False)


def test_a_daemon_of_other_settings_is_not_believed(als: AlsDaemon) -> None:
    als.start()
    leave_lazy(als)
    als._configuration.write_text("mirror_port = 0\nmax_workers = 3\n")
    done = als.cli("wait", LAZY, status=1)
    assert b"the daemon that runs has other settings: max_workers, and the image is lazy" in done.stderr


class Screen(Lines):
    """Notes what it is to show."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int]] = []

    def begins(self, layer: Descriptor) -> None:
        self.said.append(("begins", layer.size))

    def advances(self, layer: Descriptor, count: int) -> None:
        self.said.append(("advances", count))

    def done(self, layer: Descriptor, *, fetched: bool) -> None:
        self.said.append(("done", fetched))


def steps(*layers: tuple[State, int | None]) -> list[ImageStatus]:
    """An image of one layer, as it is told to be time after time."""
    digest = SAMPLE.descriptor.digest
    size = 100
    found = [LayerStatus(digest, digest, "estargz", state, None if here is None else size, here) for state, here in layers]
    return [ImageStatus(digest, ("a:1",), (layer,)) for layer in found]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            [(State.LISTED, 0), (State.LAZY, 40), (State.COMPLETE, 100), (State.SEALED, 100), (State.SEALED, 100)],
            [("begins", 100), *(("advances", count) for count in (0, 40, 60, 0)), ("done", True)],
        ),
        ([(State.LAZY, 70), (State.SEALED, 100)], [("begins", 100), ("advances", 70), ("advances", 30), ("done", True)]),
        ([(State.SEALED, 100), (State.SEALED, 100)], [("done", False)]),
    ],
)
def test_what_a_wait_shows(seen: list[tuple[State, int]], said: list[tuple[str, int]]) -> None:
    screen = Screen()
    shown = Shown(screen)
    for image in steps(*seen):
        shown.show(image)
    assert screen.said == said


class Teller:
    """A daemon that tells of an image in turn as it was told."""

    def __init__(self, images: list[ImageStatus]) -> None:
        self._images = images

    def status(self, name: str) -> Told:
        return Told((self._images.pop(0),), ())

    def fill(self, name: str) -> int:
        return 0


def test_a_layer_that_the_daemon_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes of it, so nobody waits for ever; but a daemon that has just started may not have opened it yet."""
    awaited = Awaited(Teller(steps((State.LAZY, None), (State.LAZY, 5), (State.LAZY, None))), "a:1", None)
    assert [awaited.look().state for _ in range(2)] == [State.LAZY] * 2
    monkeypatch.setattr("als.cli.wait._OPENING_SECONDS", 0.0)
    with pytest.raises(DeadlineExceeded, match="does not serve the layer"):
        awaited.look()


SLOW = zstd_podman([file(str(number), noise(300_000, number)) for number in range(20)], 100_000)
IMAGE = image_of(SLOW)


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    """Serves `IMAGE` as ``ADDRESS/slow:1``."""

    def typed(answer: Answer) -> None:
        if "/manifests/" in answer.path:
            answer.headers["Content-Type"] = MANIFEST

    documents = {str(IMAGE.manifest.config.digest): IMAGE.config_data, "1": IMAGE.manifest_data}
    with FaultyRegistry({**blobs_of(SLOW), **documents, str(IMAGE.digest): IMAGE.manifest_data}, fault=typed) as found:
        yield found


def begin(als: AlsDaemon, registry: FaultyRegistry, tmp_path: Path, *, background: bool) -> str:
    """A daemon by which a client has found the image's layer; its reference."""
    (tmp_path / "registries.conf").write_text(insecure_registries([registry.address]))
    als.environment["CONTAINERS_REGISTRIES_CONF"] = str(tmp_path / "registries.conf")
    settings = f'mirror_port = 0\nlayouts = ["composefs"]\nbackground = {str(background).lower()}\n'
    als._configuration.write_text(settings)
    als.start()
    reference = f"{registry.address}/slow:1"
    toc = toc_digest(SLOW.descriptor)
    info = als.store / base64.b64encode(reference.encode()).decode() / str(toc) / "info"
    assert json.loads(info.read_bytes())["toc-digest"] == str(toc)
    return reference


def test_a_lazy_image_until_it_is_sealed(als: AlsDaemon, registry: FaultyRegistry, tmp_path: Path) -> None:
    reference = begin(als, registry, tmp_path, background=False)
    shown = als.json("status", reference)
    (layer,) = shown["images"][0]["layers"]
    assert (layer["state"], layer["bytes"], layer["bytes_here"], layer["filling"]) == ("listed", 6_000_000, 0, False)
    assert [link["host"] for link in shown["links"]] == [registry.address]
    assert als.json("images")[0]["state"] == "listed"
    told = als.cli("status").stdout.decode()
    assert reference in told
    assert "THROUGHPUT" in told
    late = als.cli("wait", "--no-fill", "--timeout", "1", reference, status=4)
    assert b"the background fill is off: what nobody reads does not come" in late.stderr
    assert b"time is up, and the image is listed" in late.stderr
    assert als.json("images")[0]["percent"] == 0, "waiting alone brings nothing"
    done = als.cli("wait", reference)
    assert b"it is switched on for this image" in done.stderr
    assert b"complete" in done.stderr
    assert als.json("images")[0]["state"] == "sealed"
    assert als.cli("status").stdout.splitlines()[0] == b"everything is sealed"
    als.stop()
    assert als.json("status", reference)["images"][0]["state"] == "sealed"


def test_a_daemon_that_ends_while_somebody_waits(als: AlsDaemon, registry: FaultyRegistry, tmp_path: Path) -> None:
    reference = begin(als, registry, tmp_path, background=False)
    with subprocess.Popen(als.command("wait", "--no-fill", reference), stderr=subprocess.PIPE) as waiting:
        assert waiting.stderr is not None
        assert b"background fill is off" in waiting.stderr.readline()
        als.stop()
        _, errors = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert b"the daemon ended" in errors
    als.start()
    wait_until(lambda: als.json("images")[0]["state"] == "listed", "the layer is served again", deadline=30)


def test_without_being_asked(als: AlsDaemon, registry: FaultyRegistry, tmp_path: Path) -> None:
    reference = begin(als, registry, tmp_path, background=True)
    assert als.cli("wait", "-q", "--timeout", "60", reference).stderr == b""
    assert als.json("images")[0]["state"] == "sealed"
