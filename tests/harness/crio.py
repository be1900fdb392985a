"""Real CRI-O, as a node would run it but without kubelet: crictl speaks to it, and all it reads and writes is in one folder.

Nothing of the machine's own is touched: it runs in a mount namespace where /etc/containers is a folder of the harness. Pods use
the host's network, so no CNI plugin is needed. Containers, and conmon above them, live on when CRI-O is stopped or killed, and
the namespace lives on with this object: a second `start` finds them again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.podman import Binaries, insecure_registries
from tests.harness.system import (
    Completed,
    MountNamespace,
    cgroups_usable,
    processes_below,
    run,
    stop_process,
    unmount_below,
    wait_until,
)

# CRI-O has no switch for "no cgroups": what needs them is taken out of the container's configuration before crun reads it.
_RUNTIME = """\
#!{python}
import json, os, resource, sys
words = sys.argv[1:]
if "create" in words:
    path = os.path.join(words[words.index("--bundle") + 1], "config.json")
    with open(path) as file:
        config = json.load(file)
    config["ociVersion"] = "1.0.2"  # crun before 1.20 refuses a later one, and nothing later is used.
    for name in ("cgroupsPath", "resources"):
        config["linux"].pop(name, None)
    config["process"].pop("oomScoreAdj", None)
    for limit in config["process"].get("rlimits") or []:
        hard = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if hard != resource.RLIM_INFINITY:
            limit["hard"], limit["soft"] = min(limit["hard"], hard), min(limit["soft"], hard)
    with open(path, "w") as file:
        json.dump(config, file)
os.execv("{crun}", ["crun", "--cgroup-manager=disabled", *words])
"""

SLEEP = ("/bin/sh", "-c", "trap 'exit 0' TERM; echo started; sleep 100000 & wait")
"""What a container of a test runs as a rule; it ends when it is told to."""

_NAMESPACES = {"network": 2, "pid": 1, "ipc": 0}
"""CRI's NamespaceOption: the node's network, a process namespace for each container."""


@dataclass(frozen=True)
class Pod:
    """A pod, and what its containers have to be created with."""

    id: str
    configuration: Path
    namespaces: Mapping[str, Any]


@dataclass(frozen=True)
class CrioStorage:
    """How CRI-O is told about storage and registries."""

    image_stores: tuple[Path, ...] = ()
    layer_stores: tuple[str, ...] = ()
    """Additional layer stores: ``/path:ref``."""
    own_options: bool = False
    """All of it in crio.conf, and nothing in storage.conf."""
    images_apart: bool = False
    """Images in a folder of their own, and containers alone in the graph root; with `own_options`."""
    insecure: tuple[str, ...] = ()
    """Registries (host:port) that are reached by plain HTTP."""
    mirror_port: int = 0
    """Where als mirrors those registries; 0: nowhere."""
    internal_repair: bool = False
    pull_progress_timeout: str = "0s"


def _quoted(values: Sequence[object]) -> str:
    return "[" + ", ".join(json.dumps(str(value)) for value in values) + "]"


class Crio:
    """One CRI-O below `base`, whose path should be short; a context manager that starts it and leaves nothing behind.

    :param tools: the folder with crio, crictl and pinns.
    :param pause: reference of the pods' own image; any with /bin/sleep will do.
    """

    def __init__(self, base: Path, tools: Path, storage: CrioStorage, pause: str, binaries: Binaries | None = None) -> None:
        self.base = base
        self.storage = storage
        self.graph_root = base / "g"
        self.run_root = base / "r"
        self.log = base / "crio.log"
        self._tools = tools
        self._pause = pause
        _, self._crun, self._conmon = (binaries or Binaries()).paths().values()
        self._sandboxed = not cgroups_usable()
        self._socket = base / "s"
        self._namespace: MountNamespace | None = None
        self._process: subprocess.Popen[bytes] | None = None
        for folder in (base, base / "etc", base / "none", base / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        self.configure(storage)

    @property
    def configuration(self) -> Path:
        """crio.conf."""
        return self.base / "crio.conf"

    @property
    def version_file(self) -> Path:
        """What CRI-O compares its version with at start, to remove all images if another one ran before."""
        return self.base / "version"

    def configure(self, storage: CrioStorage) -> None:
        """Write the files; CRI-O reads them at its next start."""
        self.storage = storage
        stores = [f"overlay.imagestore={path}" for path in storage.image_stores]
        stores += [f"overlay.additionallayerstore={path}" for path in storage.layer_stores]
        (self.base / "etc" / "storage.conf").write_text("" if storage.own_options else self._storage_conf(), "utf-8")
        registries = insecure_registries(storage.insecure, storage.mirror_port)
        (self.base / "etc" / "registries.conf").write_text(registries, "utf-8")
        (self.base / "etc" / "auth.json").write_text("{}", "utf-8")
        (self.base / "etc" / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}', "utf-8")
        own = (
            f'root = "{self.graph_root}"\nrunroot = "{self.run_root}"\nstorage_driver = "overlay"\n'
            f"storage_option = {_quoted(['overlay.mountopt=nodev,metacopy=on', *stores])}\n"
        ) + (f'imagestore = "{self.base}/i"\n' if storage.images_apart else "")
        self.configuration.write_text(self._crio_conf(own if storage.own_options else ""), "utf-8")

    def _storage_conf(self) -> str:
        return (
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.graph_root}"\nrunroot = "{self.run_root}"\n'
            f"[storage.options]\nadditionalimagestores = {_quoted(self.storage.image_stores)}\n"
            f"additionallayerstores = {_quoted(self.storage.layer_stores)}\n"
            '[storage.options.overlay]\nmountopt = "nodev,metacopy=on"\n'
        )

    def _crio_conf(self, storage: str) -> str:
        runtime = Path(self._crun)
        if self._sandboxed:
            runtime = self.base / "crun"
            runtime.write_text(_RUNTIME.format(python=sys.executable, crun=self._crun), "utf-8")
            runtime.chmod(0o755)
        base, none = self.base, self.base / "none"
        return (
            f'[crio]\n{storage}log_dir = "{base}/logs"\nversion_file = "{base}/boot"\n'
            f'version_file_persist = "{self.version_file}"\nclean_shutdown_file = "{base}/clean"\n'
            f"internal_wipe = true\ninternal_repair = {str(self.storage.internal_repair).lower()}\n"
            f'[crio.api]\nlisten = "{self._socket}"\nstream_address = "127.0.0.1"\nstream_port = "0"\n'
            f'[crio.runtime]\nconmon = "{self._conmon}"\nconmon_cgroup = "pod"\ncgroup_manager = "cgroupfs"\n'
            f'default_runtime = "crun"\npinns_path = "{self._tools}/pinns"\nnamespaces_dir = "{base}/ns"\n'
            f'container_exits_dir = "{base}/exits"\ncontainer_attach_socket_dir = "{base}/attach"\n'
            f'apparmor_profile = "unconfined"\nseccomp_profile = ""\ndecryption_keys_path = "{none}"\nhooks_dir = []\n'
            'enable_criu_support = false\npids_limit = -1\nirqbalance_config_file = ""\n'
            'irqbalance_config_restore_file = "disable"\n'
            f'[crio.runtime.runtimes.crun]\nruntime_path = "{runtime}"\nruntime_type = "oci"\nruntime_root = "{base}/state"\n'
            f'monitor_path = "{self._conmon}"\nmonitor_cgroup = "pod"\n'
            f'[crio.image]\npause_image = "{self._pause}"\npause_command = "/bin/sleep 100000"\n'
            f'pull_progress_timeout = "{self.storage.pull_progress_timeout}"\n'
            f'signature_policy = "/etc/containers/policy.json"\nsignature_policy_dir = "{none}"\nshort_name_mode = "disabled"\n'
            f'[crio.network]\nnetwork_dir = "{none}"\nplugin_dirs = ["{none}"]\n'
            "[crio.metrics]\nenable_metrics = false\n[crio.nri]\nenable_nri = false\n"
        )

    @property
    def environment(self) -> dict[str, str]:
        """What to add to the environment of `als` for it to find this CRI-O as it would find the machine's own."""
        return {
            "CONTAINER_CONFIG": str(self.configuration),
            "CONTAINER_CONFIG_DIR": str(self.base / "none"),
            "CONTAINERS_STORAGE_CONF": str(self.base / "etc" / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.base / "etc" / "registries.conf"),
            "REGISTRY_AUTH_FILE": str(self.base / "etc" / "auth.json"),
        }

    def _inside(self, *words: str) -> list[str]:
        if self._namespace is None:
            self._namespace = MountNamespace()
            run(*self._namespace.command("mount", "--bind", str(self.base / "etc"), "/etc/containers"))
        return self._namespace.command(*words)

    def start(self, deadline: float = 60) -> None:
        """Start CRI-O and wait until it answers.

        :raises RuntimeError: it ended instead; the end of its log is in the message.
        """
        command = self._inside(str(self._tools / "crio"), "--config", str(self.configuration), "--config-dir", "")
        self._socket.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "TMPDIR": str(self.base), "HOME": str(self.base)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = self._process

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"crio ended with {process.returncode}:\n{self.log_text()[-4000:]}")
            return self._socket.exists() and self("version", status=None, deadline=10).returncode == 0

        wait_until(answers, f"crio (log: {self.log})", deadline)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End CRI-O alone; containers go on. Returns its exit status."""
        assert self._process is not None
        status = stop_process(self._process, first=how)
        self._process = None
        return status

    def log_text(self) -> str:
        """What it wrote so far."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def __call__(self, *arguments: str | Path, deadline: float = 120, status: int | None = 0) -> Completed:
        """``crictl ARGUMENTS``.

        :raises CommandFailed: it ended with another status than `status` (None: any is fine).
        """
        return run(*self._crictl(*arguments, deadline=deadline), deadline=deadline + 10, status=status)

    def _crictl(self, *arguments: str | Path, deadline: float) -> list[str]:
        address = f"unix://{self._socket}"
        # Without a timeout of its own crictl gives up after two seconds.
        options = ["-t", f"{int(deadline)}s", "-r", address, "-i", address]
        return [str(word) for word in (self._tools / "crictl", *options, *arguments)]

    def begin(self, *arguments: str | Path, deadline: float = 120) -> subprocess.Popen[bytes]:
        """``crictl ARGUMENTS`` in the background; whoever calls this waits for it."""
        command = self._crictl(*arguments, deadline=deadline)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def json(self, *arguments: str) -> Any:
        """Output of ``crictl ARGUMENTS -o json``."""
        verb, *rest = arguments
        return json.loads(self(verb, "-o", "json", *rest).stdout)

    def pull(self, reference: str, *options: str, status: int | None = 0) -> Completed:
        """What kubelet asks for before it starts a container."""
        return self("pull", *options, reference, status=status)

    def images(self) -> dict[str, dict[str, Any]]:
        """Images by each of their tags, and by ID where they have none."""
        found = self.json("images")["images"]
        return {name: image for image in found for name in (image["repoTags"] or [image["id"]])}

    def own_images(self) -> list[str]:
        """Names of the images in CRI-O's own graph root."""
        path = self.graph_root / "overlay-images" / "images.json"
        images = json.loads(path.read_bytes()) if path.exists() else []
        return [str(name) for image in images for name in image.get("names") or ()]

    def pod(self, name: str = "p", users_from: int = 0) -> Pod:
        """A new pod.

        :param users_from: the host's user ID that is root in the pod, with 65,535 more above it; 0: no user namespace.
        """
        namespaces: dict[str, Any] = dict(_NAMESPACES)
        if users_from:
            users = [{"host_id": users_from, "container_id": 0, "length": 65536}]
            namespaces["userns_options"] = {"mode": 0, "uids": users, "gids": users}
        document = {
            "metadata": {"name": name, "namespace": "als", "uid": name, "attempt": 1},
            "log_directory": str(self.base / "logs"),
            "linux": {"cgroup_parent": "/als-crio", "security_context": {"namespace_options": namespaces}},
        }
        path = self._document(f"pod-{name}", document)
        return Pod(self._created("runp", path), path, namespaces)

    def container(
        self, pod: Pod, reference: str, *command: str, name: str = "c", files: Mapping[str, Path] | None = None
    ) -> str:
        """The ID of a new container that runs.

        :param files: of the host, by the path where the container sees them, read-only.
        """
        mounts = [{"container_path": to, "host_path": str(path), "readonly": True} for to, path in (files or {}).items()]
        document = {
            "metadata": {"name": name, "attempt": 1},
            "image": {"image": reference},
            "command": list(command),
            "log_path": f"{name}.log",
            "mounts": mounts,
            "linux": {"security_context": {"namespace_options": pod.namespaces}},
        }
        container = self._created("create", "--no-pull", pod.id, self._document(f"ctr-{name}", document), pod.configuration)
        self("start", container)
        return container

    def exec(self, container: str, *command: str) -> str:
        """Standard output of a command in a container that runs, without line ends at its end (crictl adds some)."""
        return self("exec", "-s", container, *command).stdout.decode("utf-8", "replace").rstrip("\n")

    def state(self, container: str) -> str:
        """The container's state, such as CONTAINER_RUNNING."""
        return str(self.json("inspect", container)["status"]["state"])

    def own_image_layers(self) -> list[str]:
        """DiffIDs of layers of images that lie in CRI-O's own graph root; those of containers have none."""
        path = self.graph_root / "overlay-layers" / "layers.json"
        layers = json.loads(path.read_bytes()) if path.exists() else []
        return [str(layer["diff-digest"]) for layer in layers if layer.get("diff-digest")]

    def wipe_pods(self) -> None:
        """Remove every pod with its containers, without the ten seconds that a container has to end by itself."""
        running = self("ps", "-q", deadline=30).stdout.decode().split()
        if running:
            self("stop", "-t", "0", *running, status=None, deadline=30)
        self("rmp", "-fa", deadline=60)

    def _created(self, *arguments: str | Path) -> str:
        return self(*arguments).stdout.decode().strip()

    def _document(self, name: str, document: dict[str, Any]) -> Path:
        path = self.base / f"{name}.json"
        path.write_text(json.dumps(document), "utf-8")
        return path

    @contextmanager
    def stopped(self, how: signal.Signals = signal.SIGTERM) -> Iterator[None]:
        """CRI-O is not there within the block."""
        self.stop(how)
        try:
            yield
        finally:
            self.start()

    def close(self) -> None:
        """Remove all pods, end what runs, unmount what is mounted. The files stay."""
        if self._process is not None:
            self.wipe_pods()
            self.stop()
        for pid in processes_below(self.base):
            run("kill", "-9", str(pid), status=None)
        if self._namespace is not None:
            self._namespace.close()
            self._namespace = None
        unmount_below(self.base)

    def __enter__(self) -> Crio:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
