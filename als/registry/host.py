"""What platform this machine is, in the words images use."""

from __future__ import annotations

import os
import re
from pathlib import Path

from als.model.platform import Platform

_ARCHITECTURES = {
    "x86_64": "amd64",
    "i386": "386",
    "i686": "386",
    "aarch64": "arm64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "loongarch64": "loong64",
}


def platform_of(machine: str, cpuinfo: str = "") -> Platform:
    """The platform of a machine as ``uname -m`` names it.

    :param cpuinfo: the text of /proc/cpuinfo, by which 32-bit ARM kernels tell version 6 from 7.
    """
    architecture = _ARCHITECTURES.get(machine, machine)
    if architecture == "arm64":
        return Platform("linux", "arm64", "v8")
    if not machine.startswith("arm"):
        return Platform("linux", architecture)
    version = re.match(r"armv([5678])", machine)
    variant = f"v{version[1]}" if version else ""
    if variant == "v7" and re.search(r"^model name\s*:\s*armv6-compatible", cpuinfo, re.MULTILINE | re.IGNORECASE):
        variant = "v6"
    return Platform("linux", "arm", variant)


def host_platform() -> Platform:
    """This machine's platform."""
    machine = os.uname().machine
    cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace") if machine.startswith("arm") else ""
    return platform_of(machine, cpuinfo)
