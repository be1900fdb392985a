"""Pulls through the socket: the same as by oneself, in one's own environment, for as long as one waits."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from als.config import Config
from als.control.client import NotHere, daemon
from als.control.server import Control
from als.control.wire import settings
from als.errors import AlsError, NotFound, PolicyDenied
from als.model.reference import parse_reference
from als.service import Service
from tests.control.conftest import connect
from tests.control.test_control_socket import control_threads
from tests.harness.gated import GatedRegistry
from tests.harness.ocilayout import Image, Layout
from tests.harness.system import wait_until

Events = list[Mapping[str, Any]]


def pulled(config: Config, reference: str, events: Events | None = None) -> str:
    with daemon(config) as found:
        assert found is not None
        return found.pull(reference, None if events is None else events.append).digest


def test_progress_and_result(control: Control, service: Service, config: Config, layout: Layout, small: Image) -> None:
    events: Events = []
    assert pulled(config, layout.name("small"), events) == small.digest
    digests = {layer.digest for layer in small.layers}
    sizes = {event["layer"]: event["begins"] for event in events if "begins" in event}
    assert sizes == {layer.digest: layer.size for layer in small.layers}
    assert {event["layer"]: event["at"] for event in events if event.get("done") is True} == sizes
    ref = service.images.ref(str(parse_reference(layout.name("small"))))
    assert ref is not None
    assert ref.asked, "as if the administrator's own command had asked for it"
    events.clear()
    assert pulled(config, layout.name("small"), events) == small.digest
    assert [event["layer"] for event in events if event.get("done") is False] == [*{e["layer"]: 0 for e in events}]
    assert {event["layer"] for event in events} == digests


def test_several_on_one_connection(control: Control, config: Config, layout: Layout, small: Image) -> None:
    with daemon(config) as found:
        assert found is not None
        with pytest.raises(NotFound):
            found.pull(layout.name("missing"))
        assert found.pull(layout.name("small")).digest == small.digest
        assert found.pull(layout.name("small")).digest == small.digest


@pytest.mark.parametrize("reference", ["oci:/nowhere", "UPPER/case", "", "localhost:1/x:y", "docker-archive:/x"])
def test_errors_equal_those_of_one_s_own(
    control: Control, service: Service, config: Config, reference: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "registries.conf").write_text('[[registry]]\nlocation = "localhost:1"\nblocked = true\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    with pytest.raises(AlsError) as here, Service(config) as own:
        own.pull(parse_reference(reference), asked=True)
    with pytest.raises(AlsError) as there:
        pulled(config, reference)
    facts = [(type(e.value), e.value.what, e.value.where, e.value.hint) for e in (here, there)]
    assert facts[0] == facts[1]


def test_the_caller_s_environment_counts(
    control: Control, config: Config, gated: GatedRegistry, small: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's own has no registries.conf that lets it speak plain HTTP."""
    reference = f"{gated.address}/x:small"
    with pytest.raises(AlsError, match=r"(?i)tls|ssl|http"):
        pulled(config, reference)
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    assert pulled(config, reference) == small.digest


def test_the_caller_s_policy_counts(
    control: Control, config: Config, layout: Layout, small: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "home/.config/containers/policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text('{"default": [{"type": "reject"}]}')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(PolicyDenied, match=r"home/\.config"):
        pulled(config, layout.name("small"))


def test_what_workers_read_themselves(
    control: Control, config: Config, layout: Layout, small: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, channel = connect(config)
    with connection:
        hello = channel.receive(5)
        assert hello is not None
        assert hello["settings"] == settings(config)
        environment = {**os.environ, "SSL_CERT_FILE": "/mine.pem"}
        channel.send({"op": "pull", "reference": layout.name("small"), "progress": False, "environment": environment})
        answer = channel.receive(20)
    assert answer is not None
    assert "elsewhere" in answer


def test_not_here_is_no_error_of_the_pull() -> None:
    assert not issubclass(NotHere, AlsError)


def begun(config: Config, gated: GatedRegistry, small: Image) -> tuple[Any, threading.Event]:
    """A connection whose pull hangs in the upper layer, with the lower one complete."""
    gate = gated.hold(small.layers[1].digest)
    connection, channel = connect(config)
    assert channel.receive(5) is not None
    reference = f"{gated.address}/x:small"
    channel.send({"op": "pull", "reference": reference, "progress": True, "environment": dict(os.environ)})
    complete = set()
    while complete != {small.layers[0].digest}:
        message = channel.receive(20)
        assert message is not None
        assert "error" not in message, message
        complete |= {message["layer"]} if "done" in message else set()
    return connection, gate


def test_a_client_that_goes_ends_its_pull(
    control: Control,
    service: Service,
    config: Config,
    gated: GatedRegistry,
    small: Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    connection, gate = begun(config, gated, small)
    try:
        connection.close()
        wait_until(lambda: control_threads() == ["control"], "the pull has ended", deadline=10)
        assert [len(os.listdir(service.layout.tmp))] == [0], "nothing half made is left"
        assert [service.layers.has(layer) for layer in diff_ids(small)] == [True, False]
    finally:
        gate.set()
    asked = len(gated.blobs_asked())
    assert pulled(config, f"{gated.address}/x:small") == small.digest
    assert small.layers[0].digest not in gated.blobs_asked()[asked:], "what was complete is kept"


def diff_ids(image: Image) -> list[Any]:
    from als.model.digest import Digest

    return [Digest.parse(layer.diff_id) for layer in image.layers]


def test_the_daemon_s_end_ends_pulls(
    service: Service, config: Config, gated: GatedRegistry, small: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    gate = gated.hold(small.layers[1].digest)
    failures: list[AlsError] = []
    begun_one = threading.Event()

    def ask() -> None:
        try:
            with daemon(config) as found:
                assert found is not None
                found.pull(f"{gated.address}/x:small", lambda message: begun_one.set())
        except AlsError as error:
            failures.append(error)

    client = threading.Thread(target=ask)
    with Control(service):
        client.start()
        assert begun_one.wait(20)
    client.join(10)
    gate.set()
    assert [error.what for error in failures] == ["the daemon is being stopped"]
    assert control_threads() == []


def test_two_who_want_the_same(
    control: Control,
    config: Config,
    gated: GatedRegistry,
    small: Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One download; and when the one who began it goes, the other gets it all the same."""
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    connection, gate = begun(config, gated, small)
    results: list[str] = []
    other = threading.Thread(target=lambda: results.append(pulled(config, f"{gated.address}/x:small")))
    other.start()
    wait_until(lambda: len(control_threads()) == 3, "both ask")
    connection.close()
    gate.set()
    other.join(30)
    assert results == [small.digest]


def test_nothing_of_a_caller_is_kept(control: Control, config: Config, layout: Layout, small: Image) -> None:
    secret = "s3cret-of-one-caller"
    connection, channel = connect(config)
    with connection:
        assert channel.receive(5) is not None
        environment = {**os.environ, "MY_TOKEN": secret}
        channel.send({"op": "pull", "reference": layout.name("small"), "progress": False, "environment": environment})
        answer = channel.receive(20)
        assert answer is not None
        assert answer["digest"] == small.digest
    del environment
    wait_until(lambda: control_threads() == ["control"], "the connection has ended")
    gc.collect()
    holders = [value for value in gc.get_objects() if isinstance(value, dict) and value.get("MY_TOKEN") == secret]
    assert holders == []
