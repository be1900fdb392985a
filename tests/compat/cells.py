"""The table of docs/compatibility.md: which cells it has, what the tests found for each, and how that is written down.

Between two marker lines the document is generated. Everything else in it is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"
BEGIN, END = "<!-- tables: written by `make compat` -->", "<!-- end of the tables -->"

SUITES = ("bookworm", "trixie", "forky")
"""The Debian releases whose podman is a client."""
KINDS = {"gzip": "plain gzip", "zstd": "plain zstd", "chunked": "zstd:chunked", "estargz": "eStargz"}
OPERATIONS = (
    "pull",
    "run",
    "images",
    "inspect",
    "system df",
    "system check",
    "image diff",
    "save",
    "push",
    "commit",
    "rmi",
    "userns",
    "restart of the client",
    "daemon stopped",
)

Place = tuple[str, str, str]
"""Suite, operation, kind."""


@dataclass
class Results:
    """What the tests of this session found."""

    versions: dict[str, str] = field(default_factory=dict)
    """The podman version of each suite."""
    cells: dict[Place, str] = field(default_factory=dict)
    """The text of each cell whose test has passed."""

    @property
    def complete(self) -> bool:
        """Whether every cell of the table is known."""
        return len(self.cells) == len(SUITES) * len(OPERATIONS) * len(KINDS)


@dataclass
class Cell:
    """One test's verdict: "yes", unless the test says otherwise. It counts only if the test passes."""

    works: bool = True
    notes: list[str] = field(default_factory=list)

    def note(self, *names: str) -> None:
        """It works, with a remark: names of :data:`tests.compat.notes.NOTES`."""
        self.notes += names

    def instead(self, *names: str) -> None:
        """It does not work; the notes say why and what happens instead, and the test has asserted that."""
        self.works = False
        self.notes += names

    @property
    def text(self) -> str:
        return ("yes" if self.works else "no") + "".join(f" [^{name}]" for name in self.notes)


def render(results: Results, notes: Mapping[str, str]) -> str:
    """The generated part of the document."""
    lines = [BEGIN]
    for suite in SUITES:
        lines += ["", f"## podman {results.versions[suite]} (Debian {suite})", ""]
        lines += [f"| | {' | '.join(KINDS.values())} |", f"|---|{'---|' * len(KINDS)}"]
        for operation in OPERATIONS:
            row = (results.cells[suite, operation, kind] for kind in KINDS)
            lines.append(f"| {operation} | {' | '.join(row)} |")
    used = list(dict.fromkeys(re.findall(r"\[\^([\w-]+)\]", "\n".join(lines))))
    lines += ["", *(f"[^{name}]: {notes[name]}" for name in used), "", END]
    return "\n".join(lines)


def replaced(document: str, tables: str) -> str:
    """The document with other tables."""
    head, _, rest = document.partition(BEGIN)
    return head + tables + rest.partition(END)[2]


def parse(document: str) -> dict[Place, str]:
    """The cells that a document has."""
    cells: dict[Place, str] = {}
    suite = ""
    for line in document.partition(BEGIN)[2].partition(END)[0].splitlines():
        heading = re.fullmatch(r"## podman \S+ \(Debian (\w+)\)", line)
        suite = heading[1] if heading else suite
        columns = [column.strip() for column in line.strip("|").split("|")]
        if columns[0] in OPERATIONS:
            cells.update({(suite, columns[0], kind): text for kind, text in zip(KINDS, columns[1:], strict=True)})
    return cells
