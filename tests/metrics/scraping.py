"""Reading a daemon's metrics as a monitoring system does, and what they mean there."""

from __future__ import annotations

import http.client
import re
import socket
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families

ACCEPT = {"Accept": "application/openmetrics-text; version=1.0.0"}


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


class Scrape:
    """One answer, parsed by the library's strict parser of OpenMetrics.

    :param place: a socket's path, or a port of 127.0.0.1.
    """

    def __init__(self, place: Path | int) -> None:
        connection = (
            UnixConnection(place) if isinstance(place, Path) else http.client.HTTPConnection("127.0.0.1", place, timeout=30)
        )
        try:
            connection.request("GET", "/metrics", headers=ACCEPT)
            answer = connection.getresponse()
            assert answer.status == 200
            assert "openmetrics" in (answer.getheader("Content-Type") or "")
            self.text = answer.read().decode()
        finally:
            connection.close()
        self._values = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """The value of a series; the sum of all that have these labels."""
        found = [
            value for (each, known), value in self._values.items() if each == name and labels.items() <= dict(known).items()
        ]
        assert found, f"no series {name} {labels}"
        return sum(found)

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self._values}

    @property
    def labels(self) -> set[str]:
        """All values of labels."""
        return {value for _, labels in self._values for _, value in labels}


def metrics_of(expression: str) -> set[str]:
    """The names of the metrics of als in a PromQL expression."""
    return set(re.findall(r"\b(?:als|process)_[a-z_]+", expression))
