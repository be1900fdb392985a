"""Real podman, with everything it reads and writes in a folder of its own, also where no cgroups are delegated.

Nothing of the machine's own containers is seen or touched: storage, database, locks, registries, policy and credentials are
private. Where cgroups cannot be used (:func:`tests.harness.system.cgroups_usable`) all commands of one `Podman` run in
one mount namespace with a cgroup2 mount of its own, and containers get no cgroup.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from als.registry.mirrored import location_for
from tests.harness.system import Completed, MountNamespace, cgroups_usable, processes_below, run, unmount_below

WITHOUT_CGROUPS = """\
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""

SUBORDINATE = "daemon"
"""Whose subordinate IDs ``--userns=auto`` takes: a user that every machine has. podman 5.8 finds none of its default's, for
`containers` is no user."""


@dataclass(frozen=True)
class Binaries:
    """The programs of one podman; a newer one than the machine's brings its own crun and conmon."""

    podman: str = "podman"
    crun: str = "crun"
    conmon: str = "conmon"
    helpers: str = ""
    """The folder with its netavark, if that is not where podman looks anyway."""

    def paths(self) -> dict[str, str]:
        """The absolute path of each.

        :raises FileNotFoundError: one is not installed.
        """
        result = {}
        for name in (self.podman, self.crun, self.conmon):
            path = shutil.which(name)
            if path is None:
                raise FileNotFoundError(f"{name} is not installed")
            result[name] = path
        return result

    @property
    def version(self) -> tuple[int, ...]:
        """Podman's version, such as (4, 3, 1)."""
        words = run(self.podman, "--version").stdout.decode().split()
        return tuple(int(part) for part in re.findall(r"\d+", words[-1])[:3])


@dataclass(frozen=True)
class Storage:
    """What differs between podmans in storage.conf and registries.conf."""

    layer_stores: tuple[str, ...] = ()
    """Additional layer stores, as storage.conf wants them: ``/path:ref``."""
    image_stores: tuple[Path, ...] = ()
    metacopy: bool = True
    insecure: tuple[str, ...] = ()
    """Registries (host:port) that are reached by plain HTTP."""
    mirror_port: int = 0
    """Where als mirrors those registries; 0: nowhere."""
    sealed: bool = False
    """Nothing is read that is not held to its digest by fs-verity."""


def insecure_registries(hosts: Sequence[str], mirror_port: int = 0) -> str:
    """The blocks of registries.conf for registries that are reached by plain HTTP, and mirrored by als if a port is given."""
    blocks = []
    for host in hosts:
        blocks.append(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        if mirror_port:
            location = location_for(host, mirror_port)
            blocks.append(f'[[registry.mirror]]\nlocation = "{location}"\ninsecure = true\n')
    return "".join(blocks)


def _quoted(values: Sequence[object]) -> str:
    return "[" + ", ".join(json.dumps(str(value)) for value in values) + "]"


class Podman:
    """One podman with a graph root of its own below `base`; use it as a context manager."""

    def __init__(self, base: Path, storage: Storage | None = None, binaries: Binaries | None = None) -> None:
        self.base = base
        self.storage = storage or Storage()
        self.graph_root = base / "g"
        self.run_root = base / "r"
        binaries = binaries or Binaries()
        self.version = binaries.version
        self._binary, self._crun, self._conmon = binaries.paths().values()
        self._helpers = [binaries.helpers] if binaries.helpers else []
        self._namespace: MountNamespace | None = None
        self._sandboxed = not cgroups_usable()
        base.mkdir(parents=True, exist_ok=True)
        self._write_configuration()

    def _write_configuration(self) -> None:
        (self.base / "tmp").mkdir(exist_ok=True)
        mountopt = "nodev,metacopy=on" if self.storage.metacopy else "nodev"
        mountopt += ",verity=require" if self.storage.sealed else ""
        (self.base / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.graph_root}"\nrunroot = "{self.run_root}"\n'
            f"[storage.options]\nadditionalimagestores = {_quoted(self.storage.image_stores)}\n"
            f'additionallayerstores = {_quoted(self.storage.layer_stores)}\nroot-auto-userns-user = "{SUBORDINATE}"\n'
            f'[storage.options.overlay]\nmountopt = "{mountopt}"\n',
            "utf-8",
        )
        (self.base / "registries.conf").write_text(
            'unqualified-search-registries = []\nshort-name-mode = "permissive"\n'
            + insecure_registries(self.storage.insecure, self.storage.mirror_port),
            "utf-8",
        )
        (self.base / "containers.conf").write_text(
            (WITHOUT_CGROUPS if self._sandboxed else "[containers]\n")
            + 'log_driver = "k8s-file"\nnetns = "host"\n'
            + f'[engine]\nevents_logger = "file"\ncgroup_manager = "cgroupfs"\nruntime = "crun"\nlock_type = "file"\n'
            f'tmp_dir = "{self.base}/t"\nconmon_path = ["{self._conmon}"]\nimage_copy_tmp_dir = "{self.base}/tmp"\n'
            + (f"helper_binaries_dir = {_quoted(self._helpers)}\n" if self._helpers else "")
            + f'[engine.runtimes]\ncrun = ["{self._crun}"]\n',
            "utf-8",
        )
        policy = self.base / ".config" / "containers" / "policy.json"
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}', "utf-8")
        (self.base / "auth.json").write_text("{}", "utf-8")

    @property
    def environment(self) -> dict[str, str]:
        """What to add to the environment of any program of containers/* to make it use this configuration."""
        return {
            "HOME": str(self.base),
            "CONTAINERS_CONF": str(self.base / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.base / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.base / "registries.conf"),
            "REGISTRY_AUTH_FILE": str(self.base / "auth.json"),
            "TMPDIR": str(self.base / "tmp"),
        }

    @property
    def binary(self) -> str:
        """The path of the program."""
        return self._binary

    def inside(self, *words: str | Path) -> list[str]:
        """The command line that runs `words` where this podman's mounts are seen."""
        command = [str(word) for word in words]
        if self._namespace is None and self._sandboxed:
            self._namespace = MountNamespace()
        return self._namespace.command(*command) if self._namespace is not None else command

    def give_subordinate_ids(self, first: int, count: int) -> None:
        """Let ``--userns=auto`` take IDs from a range. The machine's own /etc/subuid and subgid stay as they are."""
        if self._namespace is None:
            self._namespace = MountNamespace()
        for name in ("subuid", "subgid"):
            (self.base / name).write_text(f"{SUBORDINATE}:{first}:{count}\n", "ascii")
            run(*self._namespace.command("mount", "--bind", str(self.base / name), f"/etc/{name}"))

    def __call__(self, *arguments: str | Path, deadline: float = 120, status: int | None = 0, data: bytes = b"") -> Completed:
        """``podman ARGUMENTS``.

        :raises CommandFailed: it ended with another status than `status` (None: any is fine).
        """
        command = self.inside(self._binary, *arguments)
        return run(*command, env=self.environment, deadline=deadline, status=status, data=data)

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """``podman ARGUMENTS`` in the background; whoever calls this waits for it."""
        return subprocess.Popen(
            self.inside(self._binary, *arguments),
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def text(self, *arguments: str | Path, deadline: float = 120) -> str:
        """Standard output of ``podman ARGUMENTS``, without the line end."""
        return self(*arguments, deadline=deadline).stdout.decode("utf-8", "surrogateescape").rstrip("\n")

    def json(self, *arguments: str | Path) -> Any:
        """Standard output of ``podman ARGUMENTS`` as JSON."""
        return json.loads(self(*arguments).stdout or b"null")

    def pull(self, reference: str, *options: str, deadline: float = 300, status: int | None = 0) -> Completed:
        """``podman pull``."""
        return self("pull", "-q", *options, reference, deadline=deadline, status=status)

    def run(
        self, reference: str, *command: str, options: Sequence[str] = (), status: int | None = 0, deadline: float = 120
    ) -> str:
        """Standard output of ``podman run --rm --pull=never``."""
        done = self("run", "--rm", "--pull=never", *options, reference, *command, deadline=deadline, status=status)
        return done.stdout.decode("utf-8", "surrogateescape")

    def seen(self, path: Path) -> Path:
        """Where a path of podman's mount namespace is seen from here."""
        return Path(f"/proc/{self._namespace.pid}/root{path}") if self._namespace is not None else path

    @contextmanager
    def mounted(self, reference: str) -> Iterator[Path]:
        """The image's files as a container would see them, without running anything."""
        container = self.text("create", "--pull=never", reference, "/none")
        try:
            yield self.seen(Path(self.text("mount", container)))
        finally:
            self("umount", container)
            self("rm", container)

    def layers(self, reference: str) -> list[str]:
        """The image's DiffIDs, bottom first."""
        inspected = self.json("image", "inspect", reference)
        return [str(diff_id) for diff_id in inspected[0]["RootFS"]["Layers"]]

    def own_layers(self) -> list[dict[str, Any]]:
        """What the graph root's own layers.json lists."""
        path = self.graph_root / "overlay-layers" / "layers.json"
        return list(json.loads(path.read_bytes())) if path.exists() else []

    def reboot(self) -> None:
        """What a reboot leaves: the graph root. All processes and mounts are gone, and what lay in the run root."""
        self._end()
        for folder in (self.run_root, self.base / "t"):
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove every container, end what runs, unmount what is mounted. The files stay."""
        if self.graph_root.exists():
            self("rm", "-fa", "-t", "0", status=None, deadline=60)
        self._end()

    def _end(self) -> None:
        for pid in processes_below(self.base):
            run("kill", "-9", str(pid), status=None)
        if self._namespace is not None:
            self._namespace.close()
            self._namespace = None
        unmount_below(self.base)

    def __enter__(self) -> Podman:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
