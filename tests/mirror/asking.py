"""Requests to the mirror, as root or as somebody else."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEADLINE = 60.0


@dataclass(frozen=True)
class Got:
    """An answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """Of an error document."""
        return str(json.loads(self.body)["errors"][0]["code"])


@dataclass(frozen=True)
class Asker:
    """Asks for one repository."""

    port: int
    path: str

    def __call__(self, what: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Got:
        """A request for ``manifests/...`` or ``blobs/...``."""
        return self.raw(f"/v2/{self.path}/{what}", method, headers)

    def raw(self, target: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Got:
        """A request for any target.

        :raises ConnectionError: the mirror hung up.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request(method, target, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Got(answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()})
        except http.client.IncompleteRead as error:
            raise ConnectionError("the answer is cut short") from error
        finally:
            connection.close()

    def manifest(self, name: str) -> dict[str, Any]:
        """A manifest that is there."""
        got = self(f"manifests/{name}")
        assert got.status == 200, got
        parsed: dict[str, Any] = json.loads(got.body)
        return parsed

    def as_user(self, uid: int, what: str) -> Got:
        """The same request from a process of another user.

        :raises ConnectionError: the mirror hung up.
        """
        # bash, because a user may not be able to read the Python that runs the tests.
        head = f"GET /v2/{self.path}/{what} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n\r\n"
        script = f'exec 3<>/dev/tcp/127.0.0.1/{self.port}; printf %s "$1" >&3; exec cat <&3'
        done = subprocess.run(
            ["/bin/bash", "-c", script, "bash", head],
            user=uid, group=uid, extra_groups=[], capture_output=True, timeout=DEADLINE, check=False, cwd="/",
        )  # fmt: skip
        beginning, _, body = done.stdout.partition(b"\r\n\r\n")
        if not beginning:
            raise ConnectionError(f"no answer {done.stderr.decode()}")
        return Got(int(beginning.split()[1]), body)
