"""The daemon tells how far images are: asked again and again on one connection, and by those alone that are like it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from als import __version__
from als.config import Config
from als.control.client import NotHere, daemon, reached
from als.control.server import Control
from als.control.wire import MAX_MESSAGE, NAME, PROTOCOL, Channel, settings
from als.errors import AlsError, NotFound, StoreError
from als.model.status import State
from als.service import Service
from als.service.status import links, status
from tests.control.conftest import connect
from tests.control.test_control_socket import framed
from tests.formats.tocbuilder import file, zstd_podman
from tests.harness.lazyimages import ServedLayers, image_of, keep
from tests.harness.ocilayout import Image, Layout
from tests.harness.policy import ExpectedLogs
from tests.lazy.faultyregistry import FaultyRegistry
from tests.lazy.site import TIMEOUT, Site, blobs_of, noise

SAMPLE = zstd_podman([file(str(number), noise(50_000, number)) for number in range(10)])


@pytest.fixture
def site(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """With lazy layers that the service has as a daemon has them."""
    with Site(service.layout.root, service.workers) as found:
        monkeypatch.setattr(service, "lazies", ServedLayers(found))
        yield found


def test_complete_images(control: Control, service: Service, config: Config, layout: Layout, small: Image) -> None:
    with daemon(config) as found:
        assert found is not None
        assert found.status().images == ()
        found.pull(layout.name("small"))
        told = found.status()
        assert [(image.references, image.state) for image in told.images] == [((layout.name("small"),), State.SEALED)]
        assert list(told.images) == status(service)
        assert told.links == ()
        assert found.status(small.digest) == told
        assert found.fill(small.digest) == 0


def test_until_it_is_complete(control: Control, service: Service, config: Config, site: Site) -> None:
    """As somebody does who waits."""
    keep(service.images, "r.io/lazy:1", image_of(SAMPLE))
    with FaultyRegistry(blobs_of(SAMPLE)) as registry, reached(config) as found:
        layer = site.layer(registry, SAMPLE)
        assert found.status("r.io/lazy:1").images[0].state is State.LISTED
        assert found.fill("r.io/lazy:1") == 1
        site.wait(lambda: found.status("r.io/lazy:1").images[0].state is State.COMPLETE, "all files")
        told = found.status()
        (there,), (here,) = told.images[0].layers, status(service)[0].layers
        assert replace(there, rate=0.0) == replace(here, rate=0.0), "the rate is of the moment"
        assert there.fetched > 500_000
        assert [link.host for link in told.links] == [registry.address]
        assert list(told.links) == links(service)
        layer.content.result(TIMEOUT)


def test_errors_are_told_and_the_connection_stays(control: Control, service: Service, config: Config, site: Site) -> None:
    keep(service.images, "r.io/lazy:1", image_of(SAMPLE))
    with reached(config) as found:
        for ask in (found.status, found.fill):
            with pytest.raises(NotFound, match="als images"):
                ask("nothing")
        (record,) = service.layout.images.iterdir()
        (record / "manifest").write_bytes((record / "manifest").read_bytes() + b" ")
        with pytest.raises(StoreError, match="has changed"):
            found.status()
        (record / "manifest").unlink()
        (record / "manifest").mkdir()
        for ask in (found.status, found.fill):
            with pytest.raises(StoreError, match="cannot be read"):
                ask("r.io/lazy:1")
        (record / "manifest").rmdir()
        assert found.status().images == ()


@pytest.mark.parametrize(
    "request_", [{"op": "status"}, {"op": "status", "image": 7}, {"op": "fill", "image": None}, {"op": "fill"}], ids=str
)
def test_what_is_no_request(control: Control, config: Config, request_: dict[str, object], expect_log: ExpectedLogs) -> None:
    expect_log("broke the protocol of the control socket: an unknown request")
    connection, channel = connect(config)
    with connection:
        assert channel.receive(5) is not None
        connection.sendall(framed(request_))
        assert channel.receive(5) is None


def test_many_images_are_no_long_message(control: Control, service: Service, config: Config) -> None:
    for number in range(60):
        keep(service.images, f"r.io/{'x' * 200}{number}:1", image_of(*[SAMPLE] * 50, note=str(number)))
    keep(service.images, "r.io/tall:1", image_of(*[SAMPLE] * 4000))
    with reached(config) as found:
        told = found.status()
        tall = found.status("r.io/tall:1").images[0]
    assert len(told.images) == 61
    assert len(tall.layers) == 4000
    assert len(str(tall.to_json())) > MAX_MESSAGE
    assert sum(len(str(image.to_json())) for image in told.images) > MAX_MESSAGE


def test_why_there_is_none(service: Service, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotHere, match="no daemon runs"), reached(config):
        pass
    with Control(service):
        with pytest.raises(NotHere, match=r"other settings: max_workers$"), reached(replace(config, max_workers=7)):
            pass
        with reached(replace(config, log_level="debug")) as found:
            assert found.status().images == ()
        monkeypatch.setattr("als.control.client.__version__", "0.0.1")
        with pytest.raises(NotHere, match=r"another version.*restart it"), reached(config):
            pass


class OldDaemon:
    """What listened before there was a status: it breaks off where it does not understand."""

    def __init__(self, config: Config, hello: dict[str, object], answer: bytes = b"") -> None:
        config.run.mkdir(parents=True, exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(config.run / NAME))
        self._listener.listen()
        self._hello = hello
        self._answer = answer

    def serve(self) -> None:
        connection, _ = self._listener.accept()
        with self._listener, connection:
            channel = Channel(connection)
            channel.send(self._hello)
            if channel.receive(TIMEOUT) is not None:
                connection.sendall(self._answer)


@contextlib.contextmanager
def serving(old: OldDaemon) -> Iterator[None]:
    thread = threading.Thread(target=old.serve)
    thread.start()
    try:
        yield
    finally:
        thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_a_daemon_from_before(config: Config, as_root: None) -> None:
    old = OldDaemon(config, {"protocol": 1, "version": __version__, "settings": settings(config)})
    with serving(old), pytest.raises(NotHere, match="another version"), reached(config):
        pass


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff" * 8,
        framed({"image": {}}),
        framed({"links": 7}),
        framed({"links": [{}]}),
        framed({"image": None}),
        framed({"layers": []}),
    ],
    ids=["end", "noise", "image", "links", "link", "none", "layers"],
)
def test_a_daemon_that_ends_over_it(config: Config, as_root: None, answer: bytes) -> None:
    old = OldDaemon(config, {"protocol": PROTOCOL, "version": __version__, "settings": settings(config)}, answer)
    with serving(old), reached(config) as found, pytest.raises(AlsError, match="before it answered"):
        found.status("r.io/x:1")
