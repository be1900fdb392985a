"""Tests with the mark ``in_vm`` run in a machine with fs-verity, and are reported one by one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.harness.system import mounts, run

ROOT = Path(__file__).parents[2]


@pytest.mark.in_vm
def test_this_is_a_machine_with_verity(module_dir: Path) -> None:
    assert os.uname().nodename == "vm"
    assert [mount.fstype for mount in mounts() if module_dir.is_relative_to(mount.point)][-1] == "ext4"
    file = module_dir / "file"
    file.write_bytes(b"content")
    run("fsverity", "enable", file)
    assert run("fsverity", "measure", file).stdout.startswith(b"sha256:")
    with pytest.raises(PermissionError):
        file.open("ab")


CONFTEST = """
import os, subprocess, sys
from pathlib import Path
from tests.harness.vmpytest import REPORTS, Inside, Outcome, Outside

HERE = Path(__file__).parent

def elsewhere(tests):
    if (HERE / "unavailable").exists():
        return Outcome(unavailable="no machine")
    reports = HERE / "reports"
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider", f"--rootdir={HERE}", *tests]
    done = subprocess.run(command, env={**os.environ, REPORTS: str(reports)}, cwd=HERE, capture_output=True, text=True)
    return Outcome(reports.read_text().splitlines(), problem="the other one ended with %d" % done.returncode)

def pytest_configure(config):
    config.addinivalue_line("markers", "in_vm: elsewhere")
    reports = os.environ.get(REPORTS)
    config.pluginmanager.register(Inside(Path(reports)) if reports else Outside(elsewhere))
"""
TESTS = """
import os
import pytest
from pathlib import Path
from tests.harness.vmpytest import REPORTS

def test_here():
    assert REPORTS not in os.environ

@pytest.mark.in_vm
def test_passes(tmp_path):
    assert REPORTS in os.environ

@pytest.mark.in_vm
@pytest.mark.parametrize("number", [1, 2])
def test_fails(number):
    print("the number is", number)
    assert number == 1, "an explanation"

@pytest.mark.in_vm
def test_is_skipped():
    pytest.skip("for a reason")

@pytest.fixture
def broken():
    raise RuntimeError("broken fixture")

@pytest.mark.in_vm
def test_errs(broken):
    pass

@pytest.mark.in_vm
def test_ends_the_machine():
    os._exit(9)
"""


def session(folder: Path) -> str:
    """What pytest says of the tests, which run in another process instead of a machine."""
    (folder / "conftest.py").write_text(CONFTEST, "utf-8")
    (folder / "test_it.py").write_text(TESTS, "utf-8")
    command = [sys.executable, "-m", "pytest", "-rA", f"--rootdir={folder}", "-c", os.devnull, "-p", "no:cacheprovider"]
    return run(*command, folder, env={"PYTHONPATH": str(ROOT)}, cwd=folder, status=None).stdout.decode()


def test_reports_are_those_of_the_tests(tmp_path: Path) -> None:
    said = session(tmp_path)
    assert "2 failed, 3 passed, 1 skipped, 1 error" in said
    assert "PASSED test_it.py::test_here" in said
    assert "PASSED test_it.py::test_passes" in said
    assert "PASSED test_it.py::test_fails[1]" in said
    assert "FAILED test_it.py::test_fails[2] - AssertionError: an explanation" in said
    assert "the number is 2" in said
    assert "for a reason" in said
    assert "RuntimeError: broken fixture" in said
    assert "the other one ended with 9" in said


def test_no_machine_is_a_reason_to_skip(tmp_path: Path) -> None:
    (tmp_path / "unavailable").touch()
    said = session(tmp_path)
    assert "1 passed, 6 skipped" in said
    assert "no machine" in said
