"""A real registry on a loopback address: Debian's docker-registry, in its own process with its own storage folder."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.harness.system import run, stop_process, wait_until

_LISTENING = re.compile(r"listening on [^ ]*:(\d+)")


class RegistryServer:
    """One docker-registry; stopping and starting again keeps its storage, not its port.

    :param folder: for its storage, configuration and log; is created.
    :param options: merged into the top level of its configuration, ``http`` one level deeper.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any] | None = None, host: str = "127.0.0.1") -> None:
        self.folder = folder
        self.host = host
        self.port = 0
        self._options = dict(options or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``HOST:PORT``."""
        return f"{self.host}:{self.port}"

    @property
    def log(self) -> str:
        """What it has written so far, its access log included."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def requests(self, *, greetings: bool = False) -> list[tuple[str, str, int]]:
        """Method, path and status of each request that it has answered, from its access log.

        :param greetings: also those by which als makes a connection that it may need (:mod:`als.registry.session`).
        """
        found = re.findall(r'"([A-Z]+) (\S+) HTTP/[\d.]+" (\d+)', self.log)
        every = [(method, path, int(status)) for method, path, status in found]
        return [each for each in every if greetings or each[:2] != ("HEAD", "/v2/")]

    def start(self) -> Self:
        """Start it on a free port and wait until it listens."""
        (self.folder / "storage").mkdir(parents=True, exist_ok=True)
        config = {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "storage")}, "delete": {"enabled": True}},
            **{key: value for key, value in self._options.items() if key != "http"},
            "http": {"addr": f"{self.host}:0", **self._options.get("http", {})},
        }
        path = self.folder / "config.yml"
        path.write_text(json.dumps(config), encoding="utf-8")  # Every JSON document is a YAML document.
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(["docker-registry", "serve", str(path)], stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until(self._listens, "docker-registry listening", deadline=120)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it; what was pushed stays."""
        if self._process is not None:
            stop_process(self._process)
            self._process = None

    def push(self, layout: str, repository: str, *options: str) -> str:
        """Copy an image into it with skopeo, digests kept; the reference it has then.

        :param layout: ``oci:DIR[:IMAGE]``.
        :param repository: ``NAME:TAG``.
        """
        reference = f"{self.address}/{repository}"
        command = ["skopeo", "--insecure-policy", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false"]
        run(*command, *options, layout, f"docker://{reference}")
        return reference

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _listens(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"docker-registry ended:\n{self.log[-4000:]}")
        match = _LISTENING.search(self.log)
        if match is not None:
            self.port = int(match[1])
        return match is not None


@pytest.fixture(scope="module")
def registry_server(module_dir: Path) -> Iterator[RegistryServer]:
    """A registry without authentication, spoken to over plain HTTP, for the tests of one module."""
    with RegistryServer(module_dir / "registry") as server:
        yield server
