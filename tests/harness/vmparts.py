"""What virtual machines are made of: QEMU, virtiofsd, a kernel with fs-verity, and the disk of a small Debian with systemd.

All of it is Debian 13's, in the form in which users get it, and lies in the cache folder from the first run on. QEMU is
unpacked and not installed (:mod:`tests.harness.debs`): that of Debian 12 lets these kernels oops at random where there is no
KVM. The kernel is that for clouds, which has virtiofs, NVMe and ext4 built in, so that it starts without an initrd.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.harness.debs import made_once, only_one, own_libraries, unpack
from tests.harness.system import run
from tests.harness.vmdebian import debian_disk

SUITE = "trixie"
_PACKAGES = ("qemu-system-x86", "qemu-utils", "virtiofsd", "linux-image-cloud-amd64")
_PROGRAMS = ("usr/bin/qemu-system-x86_64", "usr/bin/qemu-img", "usr/libexec/virtiofsd")
_FORMAT = "1"
"""Part of the cached folder's name: to be changed with what is made of the packages."""
_DISK_FORMAT = "3"


@dataclass(frozen=True)
class Parts:
    """Where the parts are."""

    folder: Path

    @property
    def root(self) -> Path:
        """The unpacked packages."""
        return self.folder / "root"

    @property
    def qemu(self) -> Path:
        return self.root / _PROGRAMS[0]

    @property
    def qemu_img(self) -> Path:
        return self.root / _PROGRAMS[1]

    @property
    def virtiofsd(self) -> Path:
        return self.root / _PROGRAMS[2]

    @property
    def release(self) -> str:
        """The kernel's, as uname(1) says it."""
        (kernel,) = (self.root / "boot").glob("vmlinuz-*")
        return kernel.name.removeprefix("vmlinuz-")

    @property
    def kernel(self) -> Path:
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """What `modprobe -d` takes."""
        return self.root / "usr"


def fetch(cache: Path) -> Parts:
    """The parts, from the cache or the mirror.

    :raises Unavailable: this is no machine for them. What should work and does not is another error.
    """
    return Parts(made_once("the virtual machine", "vm", _FORMAT, cache, _make, _check))


def _make(staging: Path, folder: Path) -> None:
    made = Parts(staging)
    unpack(SUITE, _PACKAGES, made.root)
    for name in _PROGRAMS:
        own_libraries(made.root / name, made.root, folder / "root")
    run("depmod", "-b", made.modules, made.release)


def _check(folder: Path) -> None:
    run(Parts(folder).qemu, "--version")


def disk(cache: Path) -> Path:
    """The disk of a Debian 13 with systemd and podman 5.4 (:mod:`tests.harness.vmdebian`), from the cache or made now.

    It is never written to: machines keep what they change in a layer of their own.

    :raises Unavailable: as :func:`fetch`.
    """
    parts = fetch(cache)
    path = parts.folder / f"debian-{_DISK_FORMAT}.img"
    with only_one(cache / "vm.lock"):
        if not path.exists():
            staging = Path(tempfile.mkdtemp(prefix="vm-disk-", dir=cache))
            try:
                debian_disk(SUITE, parts.modules, parts.release, staging).rename(path)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    return path
