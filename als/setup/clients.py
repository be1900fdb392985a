"""What the clients of containers/storage need to be told: podman up to 4, podman from 5 on, CRI-O. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from als.config import Config
from als.errors import ConfigError

PODMAN_WITH_DROP_INS = 6
"""The first major version of podman that reads drop-in files for storage.conf."""


class Client(enum.StrEnum):
    """Kinds of clients that need different lines."""

    PODMAN4 = "podman4"
    PODMAN5 = "podman5"
    CRIO = "crio"


@dataclass(frozen=True, slots=True)
class Installed:
    """The programs that were found; None: not there."""

    podman: tuple[int, ...] | None = None
    crio: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the files are to name."""

    layer_store: str
    """For additionallayerstores, with ``:ref``."""
    image_store: str
    other_image_stores: tuple[str, ...]
    """Ours as well, but in a layout that the client cannot use."""
    mirror_port: int
    """Of the registry mirror; 0: the client needs none, or there is none."""
    drop_in: bool
    """Whether the client reads ``storage.rootful.conf.d``."""
    verity: bool = False
    """Whether the client is to refuse files that are not sealed with fs-verity."""


def choose(installed: Installed, chosen: str | None) -> Client:
    """For whom the files are to be.

    :param chosen: what the user says.
    :raises ConfigError: it cannot be told, or the programs need lines that exclude each other.
    """
    if chosen is not None:
        return Client(chosen)
    options = "say which one by --client podman4, podman5 or crio"
    if installed.podman is None and installed.crio is None:
        raise ConfigError("neither podman nor CRI-O is installed", hint=options)
    if installed.podman is None:
        return Client.CRIO
    version = ".".join(map(str, installed.podman))
    if installed.podman < (4,):
        raise ConfigError(f"podman {version} is older than any that als was tried with", hint="podman 4.3 or later")
    if installed.podman >= (5,):
        # CRI-O needs the same lines.
        return Client.PODMAN5
    if installed.crio is not None:
        what = f"podman {version} and CRI-O read one storage.conf, but need image stores of different layouts"
        raise ConfigError(what, where="/etc/containers/storage.conf", hint=f"{options}; the other one cannot use als")
    return Client.PODMAN4


def wanted(client: Client, installed: Installed, config: Config) -> Wanted:
    """The lines that a client needs."""
    stores: dict[bool, Path] = {True: config.image_store4, False: config.image_store}
    old = client is Client.PODMAN4
    return Wanted(
        layer_store=f"{config.layer_store}:ref",
        image_store=str(stores[old]),
        other_image_stores=(str(stores[not old]),),
        # podman 4 asks the layer store for every layer, so that a pull needs no mirror.
        mirror_port=0 if old else config.mirror_port,
        drop_in=client is Client.PODMAN5 and (installed.podman or (0,))[0] >= PODMAN_WITH_DROP_INS,
        verity=config.verity == "require",
    )
