"""The units: systemd accepts them, and their options give no mount namespace to whoever mounts for the whole machine."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.harness.system import run
from tests.packaging.package import ROOT

PAGE = ROOT / "docs" / "packaging.md"
UNITS = sorted(path for kind in ("service", "timer") for path in (ROOT / "packaging").glob(f"*.{kind}"))
SERVICES = [path for path in UNITS if path.suffix == ".service"]
OF_A_MOUNT_NAMESPACE = (
    *("PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateUsers", "PrivateIPC", "ProtectSystem", "ProtectHome"),
    *(
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectProc",
        "ProcSubset",
    ),
    *("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "BindPaths", "BindReadOnlyPaths"),
    *("TemporaryFileSystem", "RootDirectory", "RootImage", "DynamicUser", "MountFlags", "MountAPIVFS", "ProtectHostname"),
)
"""Options of systemd.exec(5) that move a service into a mount namespace: its mounts would stay unseen by podman."""


def options(path: Path) -> dict[str, dict[str, list[str]]]:
    """Sections, options and their values; options may be given more than once."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(section, {}).setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_it(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    folder = tmp_path / "units"
    folder.mkdir()
    for path in UNITS:
        text = (
            path.read_text("utf-8").replace("/usr/bin/als", "/bin/true").replace("Documentation=man:als(1)", "Documentation=")
        )
        (folder / path.name).write_text(text, "utf-8")
    environment = {"SYSTEMD_UNIT_PATH": f"{folder}:"}
    done = run("systemd-analyze", "verify", "--man=no", folder / unit.name, env=environment, status=None)
    complaints = [line for line in done.stderr.decode().splitlines() if "als" in line]
    assert not complaints
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.name)
def test_its_mounts_are_those_of_the_machine_and_its_rights_are_few(unit: Path) -> None:
    service = options(unit)["Service"]
    assert not set(service) & set(OF_A_MOUNT_NAMESPACE)
    assert service["NoNewPrivileges"] == service["MemoryDenyWriteExecute"] == service["LockPersonality"] == ["yes"]
    rights = {word for line in service["CapabilityBoundingSet"] for word in line.split()}
    assert rights and not rights & {"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_NET_ADMIN", "CAP_BPF", "CAP_SYS_BOOT", "CAP_MKNOD"}


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.name)
def test_the_documented_figure_is_that_of_systemd(unit: Path) -> None:
    """Releases of systemd weigh alike to a tenth or two; which one the page names need not be here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    said = run("systemd-analyze", "security", "--offline=yes", "--no-pager", unit, status=None).stdout.decode()
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    documented = re.search(rf"^\| `{re.escape(unit.name)}` \| ([0-9.]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert found and documented
    assert abs(float(found[1]) - float(documented[1])) <= 0.3


def test_mounts_come_before_whatever_starts_containers() -> None:
    before = {name for line in options(ROOT / "packaging" / "als-mount.service")["Unit"]["Before"] for name in line.split()}
    assert before >= {"als.service", "podman-restart.service", "podman.service", "crio.service"}
    assert "ExecStop" not in options(ROOT / "packaging" / "als-mount.service")["Service"], "containers use what is mounted"


def test_garbage_is_collected_once_a_day() -> None:
    assert options(ROOT / "packaging" / "als-gc.timer")["Timer"]["OnCalendar"] == ["daily"]
