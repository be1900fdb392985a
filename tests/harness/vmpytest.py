"""A pytest plugin: tests with the mark ``in_vm`` run in a virtual machine and are reported as if they had run here.

The first such test of a session boots a :class:`tests.harness.vm.QuickVM`, in which a pytest of its own runs all of them. It
writes its reports down in pytest's own form for that purpose (which pytest-xdist uses as well); here they are handed on one by
one, so failures, skips, output and durations are the tests' own. In the machine ``ALS_TEST_DIR`` lies on an ext4 with
fs-verity, so the folders of the fixtures `module_dir` and `session_dir` do.
"""

from __future__ import annotations

import compileall
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.harness import clients, vmparts
from tests.harness.composefs import mount_composefs
from tests.harness.debs import Unavailable
from tests.harness.system import run
from tests.harness.vm import QuickVM, VMFailed

MARK = "in_vm"
REPORTS = "ALS_VM_REPORTS"
"""The environment variable that names the file for the reports: set where the tests are to run."""
PODMAN = "trixie"
"""The suite whose podman tests in the machine can have."""
_DISK_SIZE = "6G"
_DEADLINE = 1800.0
_ROOT = Path(__file__).parents[2]
_TEST_DIR = "/var/tmp/v"
_SCRIPT = """\
mkdir {test_dir} && mount /dev/vda {test_dir} && chmod 755 {test_dir} || exit 125
cd {root}
export {variable}={reports} ALS_TEST_DIR={test_dir} CI={ci} PATH={path} PYTHONDONTWRITEBYTECODE=1
exec {python} -m pytest -q -p no:cacheprovider {tests}
"""


@dataclass(frozen=True)
class Outcome:
    """What the machine has to say of the tests."""

    lines: Sequence[str] = ()
    """Reports, each a line of JSON."""
    unavailable: str = ""
    """Why none of them can run here; a reason to skip them."""
    problem: str = ""
    """What may explain that reports are missing."""


def plugin(cache: Path) -> object:
    """The half of the plugin that this process needs."""
    reports = os.environ.get(REPORTS)
    return Inside(Path(reports)) if reports else Outside(lambda names: run_in_vm(names, cache))


class Inside:
    """In the machine: write reports down as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._config = item.config
        yield

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(data) + "\n")


@dataclass
class Outside:
    """Here: have marked tests run in the machine, and hand on what it reports."""

    runner: Callable[[list[str]], Outcome]
    _outcome: Outcome | None = None
    _reports: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if item.get_closest_marker(MARK) is None:
            return None
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports_of(item):
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports_of(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        outcome = self._outcome
        if outcome is None:
            marked = [each.nodeid for each in item.session.items if each.get_closest_marker(MARK) is not None]
            outcome = self._outcome = self.runner(marked)
            for line in outcome.lines:
                data = json.loads(line)
                # JSON has no tuples; by one, pytest tells the reason of a skip from other explanations.
                data |= {name: tuple(data[name]) for name in ("location", "longrepr") if isinstance(data[name], list)}
                self._reports.setdefault(data["nodeid"], []).append(data)
        if outcome.unavailable:
            where = (str(item.path), item.location[1] or 0, f"Skipped: {outcome.unavailable}")
            yield _report(item, "skipped", where)
            return
        last = ""
        for data in self._reports.get(item.nodeid, []):
            report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
            last = report.when
            yield report
        if last != "teardown":
            why = f"the virtual machine did not report the end of this test\n{outcome.problem}"
            yield _report(item, "failed", why, "call" if last else "setup")


def _report(item: pytest.Item, outcome: str, longrepr: str | tuple[str, int, str], when: str = "setup") -> pytest.TestReport:
    how: Any = outcome
    phase: Any = when
    return pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), how, longrepr, phase)


def run_in_vm(tests: Sequence[str], cache: Path) -> Outcome:
    """Boot a machine, run tests in it by their node IDs, and return what it reported."""
    if os.geteuid() != 0:
        return Outcome(unavailable="needs root")
    try:
        parts = vmparts.fetch(cache)
        # The machine has no network.
        clients.fetch(PODMAN, cache)
        mount_composefs(cache)
    except Unavailable as error:
        return Outcome(unavailable=str(error))
    folder = cache.resolve() / "vm-inside"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    disk = folder / "disk.img"
    run("truncate", "-s", _DISK_SIZE, disk)
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", "verity", "-E", "lazy_itable_init=1", disk)
    # Nothing that is compiled in the machine outlives it.
    for name in ("als", "bench", "tests"):
        compileall.compile_dir(_ROOT / name, quiet=1)
    vm = QuickVM(parts, folder, disks=[disk], memory=4096)
    words = {
        "test_dir": _TEST_DIR,
        "root": str(_ROOT),
        "variable": REPORTS,
        "reports": str(vm.job / "reports"),
        "ci": os.environ.get("CI", ""),
        "path": os.environ["PATH"],
        "python": sys.executable,
    }
    quoted = {name: shlex.quote(word) for name, word in words.items()}
    problem = ""
    try:
        problem = vm.run(_SCRIPT.format(**quoted, tests=shlex.join(tests)), deadline=_DEADLINE, status=None).output
    except VMFailed as error:
        problem = str(error)
    disk.unlink()
    reports = vm.outside / "reports"
    lines = reports.read_text("utf-8").splitlines() if reports.exists() else []
    return Outcome([line for line in lines if line.endswith("}")], problem=problem[-6000:])
