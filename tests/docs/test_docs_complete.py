"""The pages leave nothing out: every setting, every kind of error, every page in the index, every event of the log."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from als import errors
from als.cli.exitcodes import exit_code
from tests.docs import manual

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
man = manual.load()


def rows(page: str) -> dict[str, list[str]]:
    """The tables of a page: the cells of each row after the first one, by that one's name."""
    found: dict[str, list[str]] = {}
    for line in (DOCS / page).read_text("utf-8").splitlines():
        if line.startswith("| `"):
            first, *rest = (cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|")))
            found[first.strip("`")] = rest
    return found


def test_settings() -> None:
    table = rows("configure.md")
    assert {each.name: [f"`{each.default}`", each.text.replace("``", "`")] for each in man.settings()} == table


def test_kinds_of_errors_and_their_exit_status() -> None:
    kinds = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.AlsError)}
    table = {name: cells for name, cells in rows("troubleshoot.md").items() if name in kinds}
    assert set(table) == set(kinds)
    assert {name: int(cells[0]) for name, cells in table.items()} == {
        name: exit_code(kind("x")) for name, kind in kinds.items()
    }


def test_index() -> None:
    listed = re.findall(r"^\| \[(\S+\.md)\]", (DOCS / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md") if path.name != "README.md")


def test_events_of_the_log() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "als").rglob("*.py"))
    events = set(re.findall(r"\babout\(\"([a-z ]+)\"", source))
    assert {"pulled", "published", "lazy", "complete", "sealed", "refused", "removed", "trouble"} <= events
    text = (DOCS / "operate.md").read_text("utf-8")
    assert all(f"`{event}`" in text for event in events)
