"""The test policy holds: each case is a small pytest session of its own with the real plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.policy import allowed_reasons, is_allowed

ROOT = Path(__file__).parents[1]
CONFTEST = """
from tests.harness.policy import Policy, expect_log

def pytest_configure(config):
    config.pluginmanager.register(Policy(config), "als-policy")
"""


def session(folder: Path, test: str, *, ci: bool) -> tuple[int, str]:
    """Exit status and output of pytest with this one test module."""
    (folder / "conftest.py").write_text(CONFTEST, "utf-8")
    (folder / "test_it.py").write_text(test, "utf-8")
    options = ["-W", "error::pytest.PytestUnhandledThreadExceptionWarning", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--rootdir={folder}", "-c", os.devnull, *options, folder],
        env={**os.environ, "CI": "true" if ci else "", "PYTHONPATH": str(ROOT)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("reason", "ci", "status"),
    [("because", True, 1), ("because", False, 0), ("this kernel has no fs-verity", True, 0)],
)
def test_skips(tmp_path: Path, reason: str, ci: bool, status: int) -> None:
    test = f"import pytest\n\ndef test_skips():\n    pytest.skip({reason!r})\n\ndef test_passes():\n    pass\n"
    assert session(tmp_path, test, ci=ci)[0] == status


def test_a_skipped_module_counts(tmp_path: Path) -> None:
    status, output = session(tmp_path, "import pytest\npytest.importorskip('no_such_module')\n", ci=True)
    assert status != 0
    assert "does not allow" in output


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("logging.getLogger('als.store').warning('odd')", 1),
        ("logging.getLogger('als.store').info('fine')", 0),
        ("logging.getLogger('other').warning('not ours')", 0),
        ("expect_log('^WARNING als.store: o.d$'); logging.getLogger('als.store').warning('odd')", 0),
        ("threading.Thread(target=lambda: 1 / 0).start()", 1),
    ],
)
def test_logs_and_threads(tmp_path: Path, body: str, status: int) -> None:
    test = f"import logging, threading\n\ndef test_it(expect_log):\n    {body}\n"
    assert session(tmp_path, test, ci=False)[0] == status


def test_patterns() -> None:
    patterns = allowed_reasons("# why\nno tools*\n\nexactly this\n")
    assert is_allowed("no tools here", patterns)
    assert not is_allowed("exactly this one", patterns)
    assert not is_allowed("# why", patterns)
