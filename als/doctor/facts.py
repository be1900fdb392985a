"""What was found out about a machine."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from als.doctor.crioconf import CrioConf
from als.doctor.storageconf import StorageConf
from als.mount.features import Feature


class Answer(enum.Enum):
    """What a path says when it is asked for its attributes."""

    FINE = "answers"
    MISSING = "does not exist"
    DEAD = "is a FUSE mount whose daemon died"
    HANGS = "does not answer"
    REFUSED = "refuses"


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """One feature each; named here so that the checks can say how bad its absence is."""

    erofs: Feature
    erofs_from_files: Feature
    loop_devices: Feature
    metacopy: Feature
    data_only_lowers: Feature
    fuse: Feature
    fuse_resend: Feature
    verity: Feature
    reflinks: Feature
    cgroup2: Feature


@dataclass(frozen=True, slots=True)
class PodmanFacts:
    """The podman that root would run."""

    version: tuple[int, ...] | None
    """None: there is none, or it did not say."""
    problem: str
    """Why podman could not be asked; empty where it answered."""
    storage: StorageConf | None
    """None: no storage.conf, and podman did not say either."""
    storage_problem: str
    """Why storage.conf could not be understood; empty where it could."""
    hiding: tuple[str, ...] = ()
    """What makes podman read something else than the machine's own storage.conf: a variable, a file of root's."""
    rootless: tuple[Path, ...] = ()
    """Files of ordinary users that name our stores, which are closed to rootless podman (:mod:`als.store.closed`)."""
    idmapped: bool = True
    """Whether podman 4 takes the kernel's idmapped mounts for user namespaces, and not copies of the metadata."""


@dataclass(frozen=True, slots=True)
class CrioFacts:
    """The CRI-O that is configured here."""

    conf: CrioConf | None = None
    """None: there is no configuration, so there is no CRI-O."""
    storage: StorageConf | None = None
    """The storage.conf that it reads; None: there is none."""
    problem: str = ""
    """Why its configuration could not be understood."""


@dataclass(frozen=True, slots=True)
class MirrorFacts:
    """The registry mirror, and who is told to ask it."""

    port: int
    """0: it is switched off."""
    listening: bool = False
    registries: tuple[str, ...] = ()
    """Prefixes of registries.conf that name it as their mirror."""
    elsewhere: tuple[str, ...] = ()
    """Prefixes with a mirror like ours on another port."""
    problem: str = ""
    """Why registries.conf could not be understood."""


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """The folders of als."""

    root: Path
    layer_store: Path
    layer_store_answer: Answer
    layer_store_mounted: bool
    image_store4: Path
    image_store4_answer: Answer
    image_store: Path
    image_store_answer: Answer
    erofs_mounts: int
    """EROFS mounts below the root."""
    mounts: int
    """All mounts of this mount namespace."""
    mounts_limit: int
    """The kernel's limit for them (fs.mount-max)."""
    free_bytes: int
    total_bytes: int
    free_inodes: int
    total_inodes: int
    """0: the file system makes them as it needs them."""
    beside_graph_root: bool | None
    """Whether podman's graph root is on the same file system; None: not known."""
    sealed: bool = False
    """Whether only what is sealed with fs-verity is served (the setting ``verity``)."""
    opened: tuple[Path, ...] = ()
    """Folders that are not closed to users, as als makes them."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the checks look at."""

    superuser: bool
    kernel: KernelFacts
    podman: PodmanFacts
    store: StoreFacts
    mirror: MirrorFacts
    crio: CrioFacts = CrioFacts()
