"""docs/compatibility.md says what the tests of this session found. Runs after them, by its name."""

from __future__ import annotations

import os
import re

import pytest

from tests.compat.cells import DOCUMENT, KINDS, OPERATIONS, SUITES, Results, parse, render, replaced
from tests.compat.notes import NOTES


@pytest.fixture(scope="module", autouse=True)
def _written(results: Results) -> None:
    """``make compat`` sets ALS_COMPAT_WRITE: then the document is made anew, from a run in which no cell was left out."""
    if os.environ.get("ALS_COMPAT_WRITE"):
        assert results.complete, f"{len(results.cells)} cells are known only"
        DOCUMENT.write_text(replaced(DOCUMENT.read_text("utf-8"), render(results, NOTES)), "utf-8")


def test_every_cell_says_what_was_found(results: Results) -> None:
    documented = parse(DOCUMENT.read_text("utf-8"))
    wrong = {place: (documented.get(place), found) for place, found in results.cells.items() if documented.get(place) != found}
    assert not wrong, f"run `make compat`; (documented, found): {wrong}"


def test_no_cell_is_missing() -> None:
    everything = {(suite, operation, kind) for suite in SUITES for operation in OPERATIONS for kind in KINDS}
    assert set(parse(DOCUMENT.read_text("utf-8"))) == everything


def test_notes() -> None:
    text = DOCUMENT.read_text("utf-8")
    explained = dict(re.findall(r"^\[\^([\w-]+)\]: (.+)$", text, re.MULTILINE))
    assert explained == NOTES, "each note is used, and says what tests/compat/notes.py says"
    assert set(re.findall(r"\[\^([\w-]+)\](?!:)", text)) == set(NOTES)
