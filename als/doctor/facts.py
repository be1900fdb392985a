"""What was found out about a machine."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """The folders of als."""

    root: Path
    layer_store: Path
    layer_store_answer: Answer
    layer_store_mounted: bool
    image_store4: Path
    image_store4_answer: Answer
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


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the checks look at."""

    superuser: bool
    kernel: KernelFacts
    podman: PodmanFacts
    store: StoreFacts
