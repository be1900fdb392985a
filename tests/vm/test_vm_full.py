"""The machine with systemd: what tests in it rely on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.system import CommandFailed
from tests.harness.vm import FullVM
from tests.harness.vmdebian import USER
from tests.harness.vmparts import Parts

_FIRST = f"""
set -e
systemctl is-active multi-user.target
test -z "$(systemctl --failed --no-legend)"
podman --version
python3 -c "import trio, pyfuse3, prometheus_client, isal, h11, click, rich, tomlkit, urllib3, zstandard, xattr, cffi"
runuser -l {USER} -c 'XDG_RUNTIME_DIR=/run/user/1000 podman info --format "rootless {{{{.Host.Security.Rootless}}}}"'
cat given
echo taken >/job/taken
echo kept >/root/kept
exit 7
"""


def test_a_full_machine(vm_parts: Parts, vm_disk: Path, module_dir: Path) -> None:
    vm = FullVM(vm_parts, vm_disk, module_dir / "vm")
    (vm.outside / "given").write_text("given\n")
    ended = vm.run(_FIRST.replace("given", f"{vm.job}/given"), status=7)
    lines = ended.output.splitlines()
    assert lines[0] == "active"
    assert "podman version 5.4.2" in lines
    assert lines[-2:] == ["rootless true", "given"]
    assert (vm.outside / "taken").read_text() == "taken\n"
    # The next run is the same machine after a reboot.
    with pytest.raises(CommandFailed, match=r"(?s)ended with 1, not 0.*kept\n"):
        vm.run("cat /root/kept; test -e /run/given")
