"""A pytest plugin: what makes a run fail although every assertion held.

- a skip in CI whose reason no line of tests/allowed_skips.txt allows (a skip that nobody decided on is a test that is gone);
- a record of level WARNING or above from an ``als`` logger that the test did not announce with `expect_log`;
- mounts, loop devices or processes that a module left behind.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.system import loops_below, mounts_below, processes_below, unmount_below, wait_until

ALLOWED_SKIPS = Path(__file__).parents[1] / "allowed_skips.txt"
GRACE_SECONDS = 5.0
_forbidden_skips = pytest.StashKey[list[str]]()


def allowed_reasons(text: str) -> list[str]:
    """The patterns of allowed_skips.txt: one a line, ``*`` stands for anything, ``#`` begins a comment line."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def is_allowed(reason: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(reason, pattern) for pattern in patterns)


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a report says skipped, without pytest's own prefix."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


class Policy:
    """The hooks; registered once for a session by tests/conftest.py."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.in_ci = os.environ.get("CI", "").lower() in {"true", "1"}
        self.patterns = allowed_reasons(ALLOWED_SKIPS.read_text("utf-8"))
        config.stash[_forbidden_skips] = []

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.outcome == "skipped" and not hasattr(report, "wasxfail") and not is_allowed(reason_of(report), self.patterns):
            self.config.stash[_forbidden_skips].append(f"{report.nodeid}: {reason_of(report)}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.in_ci and self.config.stash[_forbidden_skips] and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.in_ci and self.config.stash[_forbidden_skips]:
            terminalreporter.section("skips that tests/allowed_skips.txt does not allow", red=True)
            for line in self.config.stash[_forbidden_skips]:
                terminalreporter.write_line(line)


class ExpectedLogs(logging.Handler):
    """Collects what ``als`` logs at WARNING and above, and knows what of it was announced."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []
        self._patterns: list[re.Pattern[str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def __call__(self, pattern: str) -> None:
        """Announce that records whose message matches the regular expression somewhere are no failure."""
        self._patterns.append(re.compile(pattern))

    def unexpected(self) -> list[str]:
        """The messages that nobody announced."""
        lines = [f"{record.levelname} {record.name}: {record.getMessage()}" for record in self.records]
        return [line for line in lines if not any(pattern.search(line) for pattern in self._patterns)]


@pytest.fixture(autouse=True)
def expect_log() -> Iterator[ExpectedLogs]:
    """Call it with a regular expression for each warning that the test provokes; any other fails the test."""
    handler = ExpectedLogs()
    logger = logging.getLogger("als")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    unexpected = handler.unexpected()
    if unexpected:
        pytest.fail("unexpected log records (see the fixture expect_log):\n" + "\n".join(unexpected), pytrace=False)


def leftovers(*folders: Path) -> list[str]:
    """What still hangs on files below the folders, in words."""
    found = [f"mount {mount.point} ({mount.fstype})" for mount in mounts_below(*folders)]
    found += [f"loop device {device}" for device in loops_below(*folders)]
    found += [f"process {pid}: {command[:200]}" for pid, command in processes_below(*folders).items()]
    return found


def fail_on_leftovers(*folders: Path) -> None:
    """Fail if anything was left behind below the folders; mounts are taken away first, so that the next module starts clean.

    What is on its way out gets some seconds: the kernel lets go of a loop device, and of a killed process, a little later.
    """
    try:
        wait_until(lambda: not leftovers(*folders), "everything gone", deadline=GRACE_SECONDS)
    except TimeoutError:
        found = leftovers(*folders)
        unmount_below(*folders)
        pytest.fail("left behind:\n" + "\n".join(found), pytrace=False)
