"""Asking the machine. Every question has a deadline: what is asked may be just what hangs."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import queue
import re
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from als.config import Config
from als.doctor.crioconf import read_crio_conf
from als.doctor.facts import Answer, CrioFacts, Facts, KernelFacts, MirrorFacts, PodmanFacts, StoreFacts
from als.doctor.mirrorconf import mirrored
from als.doctor.storageconf import StorageConf, combine, parse_podman_info, read_storage_conf
from als.errors import ConfigError
from als.mount import features
from als.mount.table import MountEntry, find_mount, mounts_below, read_mounts
from als.native.refusal import Refusal, refusal
from als.registry.conf import load_conf
from als.registry.environment import Environment
from als.store.closed import is_open

_ANSWER_SECONDS = 5.0
_PODMAN_SECONDS = 30.0
_NO_IDMAPPED = "overlay/idmapped-lower-dir-false"
"""Below its run root, c/storage's note to itself (``drivers/overlay/overlay.go``) that the kernel has no idmapped mounts."""
_USERS_CONF = Path(".config/containers/storage.conf")
"""In the home of a user."""
_DEFAULT_GRAPH_ROOT = Path("/var/lib/containers/storage")


def gather(config: Config, environment: Mapping[str, str]) -> Facts:
    """Everything that the checks want to know; takes seconds at most, a minute where podman hangs."""
    mounts = read_mounts()
    podman = podman_facts(environment, config)
    return Facts(
        superuser=os.geteuid() == 0,
        kernel=kernel_facts(_existing(config.root), mounts),
        podman=podman,
        store=store_facts(config, podman.storage, mounts),
        mirror=mirror_facts(config.mirror_port, environment),
        crio=crio_facts(environment),
    )


def kernel_facts(directory: Path, mounts: tuple[MountEntry, ...]) -> KernelFacts:
    """The kernel's features, those of a file system asked on `directory`."""
    version = features.kernel_version()
    return KernelFacts(
        erofs=features.file_system_known("erofs", *features.read_file_systems()),
        erofs_from_files=features.file_backed_erofs(directory),
        loop_devices=features.loop_devices(),
        metacopy=features.overlay_metacopy(),
        data_only_lowers=features.data_only_lowers(version),
        fuse=features.fuse_device(),
        fuse_resend=features.fuse_resend(version),
        verity=features.fs_verity(directory),
        reflinks=features.reflinks(directory),
        cgroup2=features.cgroup2(Path("/proc/self/cgroup").read_text(), mounts),
    )


def podman_facts(environment: Mapping[str, str], config: Config | None = None) -> PodmanFacts:
    """podman's version and storage settings, in its own words where it answers.

    :param config: where given, the files of users are searched for its stores.
    """
    version, problem = _podman_version(environment)
    told: StorageConf | None = None
    files: StorageConf | None = None
    storage_problem = ""
    if not problem:
        told, problem = _podman_storage(environment)
    try:
        files = read_storage_conf(environment, drop_ins=version is not None and version[0] >= 6)
    except ConfigError as error:
        storage_problem = str(error)
    storage = combine(files, told)
    return PodmanFacts(
        version,
        problem,
        storage,
        storage_problem,
        hiding=tuple(_hiding(environment)),
        rootless=() if config is None else tuple(_rootless_files(config, environment)),
        idmapped=storage is None or not (Path(storage.run_root or "/run/containers/storage") / _NO_IDMAPPED).exists(),
    )


def _hiding(environment: Mapping[str, str]) -> Iterator[str]:
    named = environment.get("CONTAINERS_STORAGE_CONF")
    own = Path(environment.get("XDG_CONFIG_HOME") or "/nonexistent") / "containers" / "storage.conf"
    if named:
        yield f"CONTAINERS_STORAGE_CONF={named}"
    elif own.is_file():
        yield f"{own}"
    yield from (f"{name}={environment[name]}" for name in ("STORAGE_OPTS", "STORAGE_DRIVER") if environment.get(name))


def _rootless_files(config: Config, environment: Mapping[str, str]) -> Iterator[Path]:
    ours = {str(path) for path in (config.layer_store, config.image_store4, config.image_store)}
    files = [Path(user.pw_dir) / _USERS_CONF for user in pwd.getpwall() if user.pw_uid != 0]
    if os.geteuid() != 0:
        # Of whoever asks it is known what he has set.
        named, home = environment.get("CONTAINERS_STORAGE_CONF"), environment.get("XDG_CONFIG_HOME")
        own = Path(named) if named else Path(home) / _USERS_CONF.relative_to(".config") if home else None
        files += [own] if own else []
    for path in dict.fromkeys(files):
        try:
            if not path.is_file():
                continue
            conf = read_storage_conf({"CONTAINERS_STORAGE_CONF": str(path)}, folders=())
        except (OSError, ConfigError):
            # Its owner's affair: podman of root does not read it.
            continue
        if conf is not None and ours & {entry.removesuffix(":ref") for entry in (*conf.layer_stores, *conf.image_stores)}:
            yield path


def crio_facts(environment: Mapping[str, str]) -> CrioFacts:
    """CRI-O's settings, if it has a configuration."""
    try:
        conf = read_crio_conf(environment)
        return CrioFacts() if conf is None else CrioFacts(conf, read_storage_conf(environment, drop_ins=True))
    except ConfigError as error:
        return CrioFacts(problem=str(error))


def mirror_facts(port: int, environment: Mapping[str, str]) -> MirrorFacts:
    """Whether the registry mirror listens, and which registries it is named for."""
    if not port:
        return MirrorFacts(port)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_SECONDS):
            listening = True
    except OSError:
        listening = False
    try:
        home = Path(environment.get("HOME") or "/root")
        here, elsewhere = mirrored(load_conf(Environment(environment, home, 0)), port)
    except ConfigError as error:
        return MirrorFacts(port, listening, problem=str(error))
    return MirrorFacts(port, listening, here, elsewhere)


def _podman_version(environment: Mapping[str, str]) -> tuple[tuple[int, ...] | None, str]:
    # --version opens no storage, so it answers also where everything else of podman fails.
    output, problem = _podman(["--version"], environment)
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", output)
    if match is None:
        return None, problem or f"`podman --version` says {output.strip()!r}"
    return tuple(int(part or 0) for part in match.groups()), problem


def _podman_storage(environment: Mapping[str, str]) -> tuple[StorageConf | None, str]:
    output, problem = _podman(["info", "--format", "json"], environment)
    if problem:
        return None, problem
    try:
        document = json.loads(output)
        if not isinstance(document, dict):
            raise ConfigError("not an object", where="podman info")
        return parse_podman_info(document), ""
    except (ValueError, ConfigError) as error:
        return None, f"`podman info` is not understood: {error}"


def _podman(arguments: list[str], environment: Mapping[str, str]) -> tuple[str, str]:
    """podman's output, and what went wrong."""
    command = f"`podman {' '.join(arguments)}`"
    try:
        done = subprocess.run(
            ["podman", *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PODMAN_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return "", "podman is not installed"
    except subprocess.TimeoutExpired:
        return "", f"{command} did not answer in {_PODMAN_SECONDS:.0f} seconds"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return done.stdout, f"{command} fails: {last}"
    return done.stdout, ""


def store_facts(config: Config, storage: StorageConf | None, mounts: tuple[MountEntry, ...]) -> StoreFacts:
    """The state of our folders."""
    existing = _existing(config.root)
    space = os.statvfs(existing)
    graph_root = Path(storage.graph_root) if storage and storage.graph_root else _DEFAULT_GRAPH_ROOT
    beside: bool | None = None
    if answer_of(graph_root) is Answer.FINE:
        beside = graph_root.stat().st_dev == existing.stat().st_dev
    limit = Path("/proc/sys/fs/mount-max")
    return StoreFacts(
        root=config.root,
        layer_store=config.layer_store,
        layer_store_answer=answer_of(config.layer_store),
        layer_store_mounted=find_mount(config.layer_store, mounts) is not None,
        image_store4=config.image_store4,
        image_store4_answer=answer_of(config.image_store4),
        image_store=config.image_store,
        image_store_answer=answer_of(config.image_store),
        erofs_mounts=sum(entry.fstype == "erofs" for entry in mounts_below(config.root, mounts)),
        mounts=len(mounts),
        mounts_limit=int(limit.read_text()) if limit.is_file() else 0,
        free_bytes=space.f_bavail * space.f_frsize,
        total_bytes=space.f_blocks * space.f_frsize,
        free_inodes=space.f_favail,
        total_inodes=space.f_files,
        beside_graph_root=beside,
        sealed=config.verity == "require",
        opened=tuple(_opened(config)),
    )


def _opened(config: Config) -> Iterator[Path]:
    # Not the image stores themselves: somebody may have made them before als was ever started.
    chains = (store / "chains" for store in (config.image_store4, config.image_store))
    for folder in (*chains, *(config.root / name for name in ("layers", "lazy", "objects"))):
        # What cannot be looked at is said by others.
        with contextlib.suppress(OSError):
            if is_open(folder):
                yield folder


def answer_of(path: Path, seconds: float = _ANSWER_SECONDS) -> Answer:
    """Whether a path answers at all, found out without waiting for ever.

    A thread does the asking: a stat that hangs in the kernel cannot be interrupted, only left behind.
    """
    result: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def ask() -> None:
        try:
            path.stat()
        except OSError as error:
            known = {Refusal.MISSING: Answer.MISSING, Refusal.DISCONNECTED: Answer.DEAD}
            result.put(known.get(refusal(error), Answer.REFUSED))
        else:
            result.put(Answer.FINE)

    threading.Thread(target=ask, name=f"stat {path}", daemon=True).start()
    try:
        return result.get(timeout=seconds)
    except queue.Empty:
        return Answer.HANGS


def _existing(path: Path) -> Path:
    """The path, or the closest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
