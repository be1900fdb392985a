"""How layers become lazy: bytes come while the images that show them are still being written."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from als.config import Config
from als.errors import AlsError, RegistryUnavailable
from als.fetch.source import ImageSource
from als.model.forest import FOREST
from als.model.manifest import Descriptor, toc_digest
from als.model.reference import parse_reference
from als.registry.source import RawManifest
from als.service import Service
from als.service.lazily import Lazies
from als.service.recovery import recover
from als.worker.client import Workers
from tests.formats.tocbuilder import estargz, file, folder
from tests.harness.ocilayout import Layout
from tests.harness.podman import insecure_registries
from tests.harness.policy import ExpectedLogs
from tests.harness.registry import RegistryServer
from tests.harness.system import run, unmount_below, wait_until
from tests.lazily.images import stored
from tests.lazily.site import Lazy, described
from tests.lazy.elves import elf
from tests.lazy.site import noise
from tests.service.patient_images import LET

PROGRAM = elf()
SAMPLE = estargz([folder("bin"), file("bin/x", PROGRAM, mode=0o755), file("large", noise(400_000, 1))], 100_000)

TAIL = 64 << 10
"""What is asked for of a small blob."""


@pytest.fixture
def image(tmp_path: Path, layout: Layout, registry_server: RegistryServer) -> Lazy:
    made = layout.add_image("img", [stored(layout, SAMPLE)], {"Cmd": ["x"]})
    return described(layout.folder, registry_server.push(layout.name("img"), "opening:1"), made.digest)


@pytest.fixture
def let(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(LET, str(tmp_path / "let"))
    return tmp_path / "let"


@pytest.fixture
def service(
    tmp_path: Path, let: Path, registry_server: RegistryServer, monkeypatch: pytest.MonkeyPatch, as_root: None
) -> Iterator[Service]:
    (tmp_path / "registries.conf").write_text(insecure_registries([registry_server.address]), "utf-8")
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    root = tmp_path / "root"
    config = Config(
        root=root,
        run=tmp_path / "run",
        worker_user="65534",
        layouts=("composefs",),
        lazy="always",
        background=False,
        record_profiles=False,
    )
    workers = Workers((65534, 65534), config.run / "empty", "tests.service.patient_images")
    try:
        with ExitStack() as stack:
            opened = stack.enter_context(Service(config, workers=workers))
            opened.lazies = stack.enter_context(Lazies(opened))
            recover(opened)
            # Where FUSE would be.
            run("mount", "-t", "tmpfs", "none", opened.layout.mount_point)
            opened.lazies.begin(lambda: None)
            yield opened
            let.touch()
    finally:
        unmount_below(root)


def test_bytes_come_while_the_image_is_written(service: Service, image: Lazy, let: Path) -> None:
    lazies = service.lazies
    assert lazies is not None
    (descriptor,) = image.manifest.layers
    (toc,) = image.tocs
    assert toc == toc_digest(descriptor)
    pull = threading.Thread(target=service.pull, args=(parse_reference(image.reference),), kwargs={"has": toc, "lazily": True})
    pull.start()
    name = hashlib.sha256(PROGRAM).digest()
    wait_until(lambda: [layer.whole_file(name) for layer in lazies.layers()] == [True], "the program of the image's command")
    (layer,) = lazies.layers()
    # Nobody is shown it yet.
    assert not layer.folder.image.exists()
    assert lazies.key_of(descriptor, image.diff_ids[0]) == ""
    assert service.composefs.published() == {}
    assert layer.progress.files_here == 1
    (service.layout.lazy_files / layer.key / FOREST).mkdir(parents=True)
    let.touch()
    pull.join(20)
    assert not pull.is_alive()
    assert lazies.key_of(descriptor, image.diff_ids[0]) == layer.key
    assert set(service.composefs.published()) == set(image.toc_chain)
    assert list(service.layout.tmp.iterdir()) == []


@dataclass
class Near:
    """A repository that says what was asked of it, in which order."""

    source: ImageSource
    asked: list[str] = field(default_factory=list)
    error: AlsError | None = None
    """Of ranges."""

    def manifest(self, name: str) -> RawManifest:
        return self.source.manifest(name)

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        self.asked.append("blob")
        return self.source.blob(descriptor)

    def read_at(self, descriptor: Descriptor, offset: int, length: int) -> bytes:
        self.asked.append(f"{offset}+{length}")
        if self.error is not None:
            raise self.error
        return self.source.read_at(descriptor, offset, length)

    def close(self) -> None:
        """The source is the test's."""


@pytest.fixture
def near(service: Service, image: Lazy) -> Iterator[Near]:
    with contextlib.closing(service.puller.repository(parse_reference(image.reference))) as source:
        yield Near(source)


def test_the_table_of_contents_is_asked_for_first_and_once(service: Service, image: Lazy, let: Path, near: Near) -> None:
    lazies = service.lazies
    assert lazies is not None
    wanted = {"has": image.tocs[0], "lazily": True, "near": near}
    pull = threading.Thread(target=service.pull, args=(parse_reference(image.reference),), kwargs=wanted)
    pull.start()
    wait_until(lambda: bool(lazies.layers()), "a layer that is being opened")
    (layer,) = lazies.layers()
    (service.layout.lazy_files / layer.key / FOREST).mkdir(parents=True)
    let.touch()
    pull.join(20)
    assert not pull.is_alive()
    size = layer.blob_size
    assert near.asked == [f"{size - TAIL}+{TAIL}", "blob"]


def test_a_table_of_contents_that_does_not_come(
    service: Service, image: Lazy, let: Path, near: Near, expect_log: ExpectedLogs
) -> None:
    let.touch()
    expect_log("a layer is fetched whole: there: no answer")
    near.error = RegistryUnavailable("no answer", where="there")
    assert service.lazies is not None
    service.pull(parse_reference(image.reference), has=image.tocs[0], lazily=True, near=near)
    assert service.lazies.layers() == []
    assert service.layers.has(image.diff_ids[0])


def test_als_is_stopped_while_images_are_written(service: Service, image: Lazy) -> None:
    lazies = service.lazies
    assert lazies is not None
    errors: list[AlsError] = []

    def pull() -> None:
        try:
            service.pull(parse_reference(image.reference), has=image.tocs[0], lazily=True)
        except AlsError as error:
            errors.append(error)

    thread = threading.Thread(target=pull)
    thread.start()
    wait_until(lambda: bool(lazies.layers()), "a layer that is being opened")
    lazies.__exit__(None, None, None)
    thread.join(20)
    assert not thread.is_alive()
    assert [type(error).__name__ for error in errors] == ["Abandoned"]
