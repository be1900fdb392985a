"""Virtual machines for what this machine's kernel or lack of systemd does not let a test see. They do without KVM, which is
neither everywhere nor, inside of another machine, always sound.

=========== ============================================================== ================================================
            :class:`QuickVM`                                               :class:`FullVM`
=========== ============================================================== ================================================
root        the host's own, copy-on-write, so that the checkout, its       a Debian 13 with systemd, podman 5.4, and a user
            Python and podmans are where they are outside                  (:mod:`tests.harness.vmdebian`)
first       a script of ours                                               systemd
starts in   about 6 s                                                      about 15 s
keeps       nothing                                                        what was changed, from one run to the next
=========== ============================================================== ================================================

Both run one bash script as root and are gone when it ends. `output` and `status` come through a folder of the host that
virtiofsd shares. There is no network but the loopback.

Only one runs at a time on a machine (they take all the time of a CPU each), whatever checkout its test is from.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.harness.debs import only_one
from tests.harness.system import CommandFailed, run, stop_process, wait_until
from tests.harness.vmparts import Parts

_INIT = Path(__file__).with_name("vm_init.sh")
_LOCK = Path(tempfile.gettempdir()) / "als-vm.lock"
_COMMON = ("panic=-1", "oops=panic", "mitigations=off", "console=ttyS0", "loglevel=4")
_JOB = "/job"
"""Where a :class:`FullVM` sees its folder."""


class VMFailed(AssertionError):
    """A machine ended without having run its script to the end; the end of what it wrote to its console is in the message."""


@dataclass(frozen=True)
class Ended:
    """What became of a script."""

    status: int
    output: str
    """What it wrote to standard output and standard error."""


class VM(ABC):
    """A machine that runs scripts, each from boot to power-off.

    :param folder: for what the machine needs and leaves; is created. `folder/job` is seen inside as :attr:`job`, so files can
        be given and taken there. `folder/console.log` is what the kernel (and systemd) said last.
    :param disks: files that are its disks /dev/disk/by-id/virtio-disk0, ...; in a QuickVM /dev/vda, ....
    :param memory: in MB.
    """

    def __init__(self, parts: Parts, folder: Path, *, disks: Sequence[Path] = (), memory: int = 2048, cpus: int = 2) -> None:
        self._parts = parts
        self.folder = folder
        self._disks = tuple(disks)
        self._memory = memory
        self._cpus = cpus
        self.outside = folder / "job"
        """The host's name of the folder :attr:`job`."""
        self.outside.mkdir(parents=True, exist_ok=True)
        self.console = folder / "console.log"

    @property
    @abstractmethod
    def job(self) -> Path:
        """The name that the shared folder has inside."""

    @abstractmethod
    def _own(self) -> tuple[Path, str, list[str], list[str]]:
        """The folder to share, its tag, the kernel's parameters and QEMU's options."""

    def run(self, script: str, *, deadline: float = 300.0, status: int | None = 0) -> Ended:
        """Boot, run a bash script, power off.

        :param deadline: seconds for all of it.
        :param status: the exit status that is expected; None: any.
        :raises CommandFailed: it has another.
        :raises VMFailed: the machine ended, or did not in time.
        """
        for name in ("output", "status"):
            (self.outside / name).unlink(missing_ok=True)
        (self.outside / "script").write_text(script, "utf-8")
        with only_one(_LOCK):
            why = self._boot(deadline)
        output = self.outside / "output"
        text = output.read_text("utf-8", "replace") if output.exists() else ""
        told = self.outside / "status"
        if not told.exists() or not told.read_text("ascii").strip():
            console = self.console.read_text("utf-8", "replace") if self.console.exists() else ""
            raise VMFailed(f"{why}; its console ({self.console}):\n{console[-4000:]}\nwhat the script wrote:\n{text[-4000:]}")
        ended = Ended(int(told.read_text("ascii")), text)
        if status is not None and ended.status != status:
            raise CommandFailed(f"a script in a virtual machine ended with {ended.status}, not {status}:\n{text[-12000:]}")
        return ended

    def _boot(self, deadline: float) -> str:
        shared, tag, parameters, options = self._own()
        socket = self.folder / "fs.sock"
        socket.unlink(missing_ok=True)
        with ExitStack() as stack:
            log = stack.enter_context((self.folder / "qemu.log").open("wb"))

            def started(*command: str | Path) -> subprocess.Popen[bytes]:
                environment = {**os.environ, "QEMU_MODULE_DIR": str(self._parts.root / "usr/lib/x86_64-linux-gnu/qemu")}
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
                stack.callback(stop_process, process, first=signal.SIGKILL)
                return process

            sharing = ["--shared-dir", str(shared), "--cache", "auto", "--xattr", "--sandbox", "none", "--log-level", "error"]
            # overlay takes no lower directory of which it is told that others are mounted in it.
            sharing.append("--no-announce-submounts")
            started(self._parts.virtiofsd, "--socket-path", socket, *sharing)
            wait_until(socket.exists, f"virtiofsd (log: {log.name})")
            machine = started(self._parts.qemu, *self._hardware(socket, tag, parameters), *options)
            try:
                return f"the virtual machine ended with {machine.wait(deadline)} (log: {log.name})"
            except subprocess.TimeoutExpired:
                return f"the virtual machine did not end within {deadline} s"

    def _hardware(self, socket: Path, tag: str, parameters: Sequence[str]) -> list[str]:
        root = self._parts.root / "usr" / "share"
        words = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        words += ["-L", str(root / "qemu"), "-L", str(root / "seabios")]
        # QEMU emulates five levels of page tables slowly, and nobody needs them.
        words += ["-machine", "q35,accel=tcg,memory-backend=mem", "-cpu", "max,la57=off", "-smp", str(self._cpus)]
        # virtiofsd reads and writes the machine's memory.
        words += ["-m", f"{self._memory}M", "-object", f"memory-backend-memfd,id=mem,size={self._memory}M,share=on"]
        words += [
            "-chardev",
            f"socket,id=fs,path={socket}",
            "-device",
            f"vhost-user-fs-pci,chardev=fs,tag={tag},queue-size=1024",
        ]
        words += ["-device", "virtio-rng-pci", "-serial", f"file:{self.console}"]
        for number, path in enumerate(self._disks):
            words += ["-drive", f"file={path},format=raw,if=none,id=disk{number},cache=unsafe"]
            words += ["-device", f"virtio-blk-pci,drive=disk{number},serial=disk{number}"]
        return [*words, "-kernel", str(self._parts.kernel), "-append", " ".join((*_COMMON, *parameters))]


class QuickVM(VM):
    """On a copy-on-write view of this machine's root."""

    @property
    def job(self) -> Path:
        return self.outside.resolve()

    def _own(self) -> tuple[Path, str, list[str], list[str]]:
        init = self.job / "init"
        shutil.copy(_INIT, init)
        init.chmod(0o755)
        ours = [f"init={init}", f"als.job={self.job}", f"als.modules={self._parts.modules}"]
        return Path("/"), "rootfs", ["root=rootfs", "rootfstype=virtiofs", "rw", *ours], []

    def call(
        self, *command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, deadline: float = 300.0
    ) -> Ended:
        """Run one command, whatever status it ends with."""
        words = [shlex.quote(str(word)) for word in command]
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in (env or {}).items())
        return self.run(
            f"cd {shlex.quote(str(cwd or Path.cwd()))}\n{exports}{' '.join(words)}\n", deadline=deadline, status=None
        )


class FullVM(VM):
    """Debian with systemd; `multi-user.target` is reached before the script begins.

    :param disk: of :func:`tests.harness.vmparts.disk`. It is not written to; changes are in `folder/changes.qcow2`, which the
        next :meth:`run` of the same object boots from again: a reboot.
    """

    def __init__(
        self, parts: Parts, disk: Path, folder: Path, *, disks: Sequence[Path] = (), memory: int = 3072, cpus: int = 2
    ) -> None:
        super().__init__(parts, folder, disks=disks, memory=memory, cpus=cpus)
        self._changes = folder / "changes.qcow2"
        self._changes.unlink(missing_ok=True)
        run(parts.qemu_img, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk.resolve(), self._changes)

    @property
    def job(self) -> Path:
        return Path(_JOB)

    def _own(self) -> tuple[Path, str, list[str], list[str]]:
        root = ["root=/dev/nvme0n1", "rootfstype=ext4", "rw", "net.ifnames=0"]
        system = ["systemd.unit=vm.target", "systemd.show_status=0", "systemd.log_target=console"]
        drive = ["-drive", f"file={self._changes},format=qcow2,if=none,id=root,cache=unsafe"]
        return self.outside, "job", [*root, *system], [*drive, "-device", "nvme,drive=root,serial=root"]
