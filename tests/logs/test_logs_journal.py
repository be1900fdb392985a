"""Log records on their way to the journal, and to standard error where there is none."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.cli.journal import JournalHandler
from als.cli.logs import leads_to_journal, redacted
from als.errors import RegistryDenied
from als.model.logfields import about
from tests.harness.system import run
from tests.logs.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal") as found:
        yield found


@pytest.fixture
def log(journal: Journal) -> Iterator[logging.Logger]:
    """A logger outside of als's, so that its warnings are no complaints of als."""
    logger = logging.getLogger("journal-test.part")
    handler = JournalHandler(journal.path)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)
    handler.close()


def test_fields(journal: Journal, log: logging.Logger) -> None:
    log.info("pulled %s", "a/b:1", extra=about("pulled", image="a/b:1", layer="sha256:0", host="a"))
    assert journal.entry() == {
        "MESSAGE": "pulled a/b:1",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "als",
        "LOGGER": "journal-test.part",
        "ALS_EVENT": "pulled",
        "ALS_IMAGE": "a/b:1",
        "ALS_LAYER": "sha256:0",
        "ALS_HOST": "a",
    }


def test_errors_say_what_and_where(journal: Journal, log: logging.Logger) -> None:
    log.warning("%s", RegistryDenied("403", where="https://u:p@host/v2/?token=s3cret"))
    entry = journal.entry()
    assert (entry["ALS_ERROR"], entry["ALS_WHERE"]) == ("RegistryDenied", "https://host/v2/?...")
    assert entry["PRIORITY"] == "4"
    assert "s3cret" not in entry["MESSAGE"]


def test_several_lines_and_what_looks_like_a_field(journal: Journal, log: logging.Logger) -> None:
    log.error("one\nPRIORITY=0\nthree")
    entry = journal.entry()
    assert entry["MESSAGE"] == "one\nPRIORITY=0\nthree"
    assert entry["PRIORITY"] == "3"
    log.error("x" * 300_000)
    assert len(journal.entry()["MESSAGE"]) == 48 << 10


def test_a_journal_that_is_gone_loses_nothing(
    journal: Journal, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.close()
    log.error("still said")
    assert "still said" in capsys.readouterr().err


def test_only_the_stream_that_systemd_names() -> None:
    status = os.fstat(2)
    assert leads_to_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    assert not leads_to_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
    assert not leads_to_journal({})


PROGRAM = """
import logging, os, sys
from pathlib import Path
from als.cli import logs
from als.model.logfields import about
status = os.fstat(2)
logs.start("info", {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, Path(sys.argv[1]))
logging.getLogger("als.x").info("hello", extra=about("pulled", image="i"))
"""


def test_a_process_whose_standard_error_is_the_journal(journal: Journal) -> None:
    done = run(sys.executable, "-c", PROGRAM, journal.path, env={"PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.stderr == b""
    entry = journal.entry()
    assert (entry["MESSAGE"], entry["ALS_IMAGE"], entry["LOGGER"]) == ("hello", "i", "als.x")


def test_without_a_journal_lines_are_plain(tmp_path: Path) -> None:
    done = run(sys.executable, "-c", PROGRAM, tmp_path / "none", env={"PYTHONPATH": str(Path(__file__).parents[2])})
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("als: the journal does not answer at")
    assert lines[1:] == ["als: INFO: als.x: hello"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://u:pw@h/v2/x: 404", "https://h/v2/x: 404"),
        ("GET https://cdn/x?X-Amz-Signature=abc&e=1 failed", "GET https://cdn/x?... failed"),
        ("'https://cdn/x?sig=abc', 3", "'https://cdn/x?...', 3"),
        ("Authorization: Bearer abcdefghijkl.mno", "Authorization: Bearer ..."),
        ("basic dXNlcjpwYXNzd29yZA==", "basic ..."),
        ("a basic fact", "a basic fact"),
        ("127.0.0.1:5000/a:1 sha256:00", "127.0.0.1:5000/a:1 sha256:00"),
    ],
)
def test_secrets_are_taken_out(text: str, left: str) -> None:
    assert redacted(text) == left
