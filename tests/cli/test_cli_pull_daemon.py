"""``als pull`` beside a running daemon: who does the work, at what price, and what happens when it dies over it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.config import load_config
from als.control.client import daemon as daemon_of
from tests.harness.als import AlsDaemon
from tests.harness.gated import GatedRegistry
from tests.harness.memory import proportional_bytes
from tests.harness.ocilayout import Image, Layout, TarBuilder
from tests.harness.podman import insecure_registries
from tests.harness.registry import registry_server
from tests.harness.system import Completed, wait_until
from tests.registry.servers import HttpServer
from tests.registry_e2e import conftest as registries
from tests.registry_e2e.conftest import PASSWORD, MakeRegistry, encoded
from tests.registry_e2e.fronts import passing_on

__all__ = ["registry_server"]

basic_options = registries.basic_options
image = registries.image
plain = registries.plain
registry_like = registries.registry_like
BASIC = f"Basic {encoded('user')}"


@pytest.fixture(scope="module")
def layout(module_dir: Path) -> Layout:
    return Layout(module_dir / "layout")


@pytest.fixture(scope="module")
def small(layout: Layout) -> Image:
    tars = [TarBuilder().file(name, name.encode() * 100).build() for name in ("one", "two")]
    return layout.add_image("small", [layout.add_layer(tar) for tar in tars])


@pytest.fixture
def als(as_root: None, tmp_path: Path) -> Iterator[AlsDaemon]:
    with AlsDaemon(tmp_path / "d") as daemon:
        yield daemon


@pytest.fixture
def gated(layout: Layout, small: Image, tmp_path: Path, als: AlsDaemon) -> Iterator[GatedRegistry]:
    """A registry that only the caller's registries.conf lets one speak plain HTTP to: the daemon runs already."""
    with GatedRegistry(layout) as registry:
        (tmp_path / "registries.conf").write_text(insecure_registries([registry.address]))
        als.environment["CONTAINERS_REGISTRIES_CONF"] = str(tmp_path / "registries.conf")
        yield registry


def modules_of(als: AlsDaemon, *arguments: str, cwd: Path | None = None) -> set[str]:
    """What an ``als`` command loads, itself and nobody else."""
    python, *rest = als.command(*arguments)
    done = subprocess.run(
        [python, "-X", "importtime", *rest], capture_output=True, text=True, check=True, timeout=120, cwd=cwd or Path.cwd()
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_the_daemon_does_it(als: AlsDaemon, layout: Layout, small: Image) -> None:
    """What takes time to load is loaded there already. A hundred modules more were a tenth of a second."""
    loaded = modules_of(als, "pull", "-q", layout.name("small"))
    assert {"als.control.client", "click"} <= loaded
    parts = {name.split(".")[1] for name in loaded if name.startswith("als.")}
    assert parts <= {"cli", "config", "control", "errors"}, "the command line alone"
    assert not {"rich", "ssl", "urllib3", "subprocess", "trio", "asyncio"} & loaded
    (listed,) = als.json("images")
    assert (listed["digest"], listed["state"]) == (small.digest, "sealed")
    assert "als.service.core" not in modules_of(als, "status", small.digest) | modules_of(als, "wait", small.digest)


def test_it_is_done_here_if_asked_for_or_in_doubt(als: AlsDaemon, layout: Layout, small: Image) -> None:
    assert "als.service.core" in modules_of(als, "pull", "--local", layout.name("small"))
    relative = f"oci:{layout.folder.name}:small"
    assert "als.service.core" in modules_of(als, "pull", relative, cwd=layout.folder.parent)
    als.stop()
    assert "als.service.core" in modules_of(als, "pull", layout.name("small"))


def told(done: Completed) -> tuple[int, bytes, list[bytes]]:
    # Layers come in any order, and what als itself logs is the daemon's to log.
    lines = sorted(line for line in done.stderr.splitlines() if not line.startswith(b"als: INFO"))
    return done.returncode, done.stdout, lines


@pytest.mark.parametrize("options", [(), ("-q",)], ids=["lines", "quiet"])
def test_it_says_the_same(als: AlsDaemon, layout: Layout, small: Image, tmp_path: Path, options: tuple[str, ...]) -> None:
    other = AlsDaemon(tmp_path / "other")
    try:
        for name in (layout.name("small"), layout.name("small"), layout.name("none"), "oci:/nowhere", "Upper/case", "oci:"):
            there, here = als.cli("pull", *options, name, status=None), other.cli("pull", *options, name, status=None)
            assert told(there) == told(here), name
        assert als.cli("pull", "-q", layout.name("small"), layout.name("small")).stdout.split() == [small.digest.encode()] * 2
    finally:
        other.close()


def test_bars_on_a_terminal(als: AlsDaemon, layout: Layout, small: Image) -> None:
    ours, theirs = pty.openpty()
    command = als.command("pull", layout.name("small"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(theirs)
        shown = b""
        # The terminal of a process that has ended gives an error, not an end.
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 4096):
                shown += piece
        assert process.stdout is not None
        assert process.stdout.read().decode().strip() == small.digest
        assert process.wait(30) == 0
    os.close(ours)
    for layer in small.layers:
        assert f"layer {layer.digest.removeprefix('sha256:')[:12]}".encode() in shown


def test_a_daemon_killed_over_it(als: AlsDaemon, gated: GatedRegistry, small: Image) -> None:
    gate = gated.hold(small.layers[1].digest)
    reference = f"{gated.address}/x:small"
    outcome: list[Completed] = []
    client = threading.Thread(target=lambda: outcome.append(als.cli("pull", reference, status=None)))
    client.start()
    wait_until(lambda: small.layers[1].digest in gated.blobs_asked(), "the layer is asked for")
    als.stop(signal.SIGKILL)
    client.join(30)
    gate.set()
    (done,) = outcome
    assert done.returncode == 1
    assert f"als: {reference}: the daemon ended".encode() in done.stderr
    assert b"pull again" in done.stderr
    assert b"Traceback" not in done.stderr
    assert als.cli("pull", "-q", reference).stdout.decode().strip() == small.digest
    als.start()
    assert "als.service.core" not in modules_of(als, "pull", "-q", f"oci:{gated._layout.folder}:small")


def test_ctrl_c(als: AlsDaemon, gated: GatedRegistry, small: Image) -> None:
    gate = gated.hold(small.layers[1].digest)
    command = als.command("pull", f"{gated.address}/x:small")
    environment = {**os.environ, **als.environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        wait_until(lambda: small.layers[1].digest in gated.blobs_asked(), "the layer is asked for")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert b"als: interrupted" in errors
        # Where the signal meets an import that runs code of its own, Python ends itself by the signal: 130 to a shell as well.
        assert process.returncode in (130, -signal.SIGINT)
    wait_until(lambda: not os.listdir(als.root / "tmp"), "what was begun is removed")
    gate.set()
    assert als.serving()


def test_credentials_are_those_of_each_caller(
    als: AlsDaemon, registry_like: MakeRegistry, basic_options: dict[str, object], image: Image, tmp_path: Path
) -> None:
    """The daemon knows none. One caller's are used for him, and not for who comes next."""
    with HttpServer(passing_on(registry_like(basic_options).address)) as front:
        (tmp_path / "registries.conf").write_text(insecure_registries([front.address]))
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {front.address: {"auth": encoded("user")}}}))
        (tmp_path / "none.json").write_text("{}")
        als.environment["CONTAINERS_REGISTRIES_CONF"] = str(tmp_path / "registries.conf")

        def pull(auth: str, name: str, status: int) -> Completed:
            als.environment["REGISTRY_AUTH_FILE"] = str(tmp_path / auth)
            return als.cli("pull", "-q", f"{front.address}/team/{name}:1", status=status)

        pull("none.json", "app", 4)
        assert not [request for request in front.seen if "authorization" in request.headers]
        assert pull("auth.json", "app", 0).stdout.decode().strip() == image.digest
        shown = [request for request in front.seen if request.headers.get("authorization") == BASIC]
        assert shown
        denied = pull("none.json", "other", 4)
        assert [request for request in front.seen if request.headers.get("authorization") == BASIC] == shown
        als.environment["REGISTRY_AUTH_FILE"] = str(tmp_path / "absent.json")
        missing = als.cli("pull", "-q", f"{front.address}/team/other:1", status=2)
    assert b"REGISTRY_AUTH_FILE" in missing.stderr
    for text in (als.log_text().encode(), denied.stderr, missing.stderr):
        assert PASSWORD.encode() not in text
        assert encoded("user").encode() not in text


def test_it_does_not_grow(als: AlsDaemon, layout: Layout) -> None:
    config = load_config(als._configuration, {"root": als.root, "run": als.run})
    names = [f"n{number}" for number in range(40)]
    for name in names:
        layout.add_image(name, [layout.add_layer(TarBuilder().file(name, name.encode() * 1000).build())])
    used = []
    for name in names:
        with daemon_of(config) as found:
            assert found is not None
            found.pull(layout.name(name))
        used.append(proportional_bytes(als.pid))
    assert used[-1] - used[15] < 4 << 20, used
