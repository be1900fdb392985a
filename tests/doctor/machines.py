"""Facts of machines that als should get along with, or should complain about."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from als.doctor.facts import Answer, Facts, KernelFacts, MirrorFacts, PodmanFacts, StoreFacts
from als.doctor.storageconf import StorageConf
from als.mount.features import Feature

GOOD_CONF = StorageConf(
    source="/etc/containers/storage.conf",
    driver="overlay",
    graph_root="/var/lib/containers/storage",
    run_root="/run/containers/storage",
    layer_stores=("/var/lib/als/store:ref",),
    image_stores=("/var/lib/als/is4",),
    mount_options=("nodev", "metacopy=on"),
)


def kernel(*absent: str) -> KernelFacts:
    """A kernel that has everything but the features named."""
    found = {field.name: Feature(field.name, field.name not in absent, "detail", "remedy") for field in fields(KernelFacts)}
    return KernelFacts(**found)


STORE = StoreFacts(
    root=Path("/var/lib/als"),
    layer_store=Path("/var/lib/als/store"),
    layer_store_answer=Answer.FINE,
    layer_store_mounted=True,
    image_store4=Path("/var/lib/als/is4"),
    image_store4_answer=Answer.FINE,
    image_store=Path("/var/lib/als/image-store"),
    image_store_answer=Answer.FINE,
    erofs_mounts=12,
    mounts=60,
    mounts_limit=100000,
    free_bytes=50 << 30,
    total_bytes=100 << 30,
    free_inodes=5_000_000,
    total_inodes=6_000_000,
    beside_graph_root=True,
)

GOOD = Facts(
    superuser=True,
    kernel=kernel(),
    podman=PodmanFacts(version=(4, 3, 1), problem="", storage=GOOD_CONF, storage_problem=""),
    store=STORE,
    mirror=MirrorFacts(port=4780, listening=True, registries=("docker.io", "quay.io")),
)

MODERN = replace(
    GOOD,
    podman=replace(GOOD.podman, version=(5, 8, 6), storage=replace(GOOD_CONF, image_stores=("/var/lib/als/image-store",))),
)
"""The same with podman 5, set up for it."""

FRESH_DEBIAN = Facts(
    superuser=True,
    kernel=kernel("erofs_from_files", "data_only_lowers", "fuse_resend", "verity", "reflinks"),
    podman=PodmanFacts(
        version=(4, 3, 1),
        problem="",
        storage=StorageConf(source="no storage.conf", driver="overlay", graph_root="/var/lib/containers/storage"),
        storage_problem="",
    ),
    store=replace(
        STORE,
        layer_store_answer=Answer.MISSING,
        layer_store_mounted=False,
        image_store4_answer=Answer.MISSING,
        image_store_answer=Answer.MISSING,
    ),
    mirror=MirrorFacts(port=4780),
)
"""Debian 12 with its own kernel (6.1) and podman, before als was ever started."""


def with_conf(**changes: object) -> Facts:
    """The good machine with another storage.conf."""
    conf = StorageConf(**{**{field.name: getattr(GOOD_CONF, field.name) for field in fields(GOOD_CONF)}, **changes})
    return replace(GOOD, podman=replace(GOOD.podman, storage=conf))


def with_store(**changes: object) -> Facts:
    """The good machine with another state of als's folders."""
    return replace(GOOD, store=StoreFacts(**{**{field.name: getattr(STORE, field.name) for field in fields(STORE)}, **changes}))
