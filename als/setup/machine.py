"""Looking at the machine: which clients are there, which files they really read, and which registries matter."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from als.config import Config
from als.doctor.crioconf import DROP_INS, MAIN, crio_conf_files, read_crio_conf
from als.doctor.gather import podman_facts
from als.doctor.storageconf import StorageConf, read_storage_conf
from als.errors import AlsError, ConfigError
from als.model.reference import Transport, parse_reference
from als.registry.conf import conf_files, load_conf
from als.registry.environment import Environment
from als.setup.clients import Client, Installed, Wanted, choose, wanted
from als.setup.edits import METACOPY
from als.setup.files import read_file
from als.setup.plan import Situation, StorageFile
from als.setup.registriesconf import Hosts
from als.store.images import Images
from als.store.layout import Layout

_SECONDS = 30.0
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d+)?|\[[0-9A-Fa-f:]+\](:\d+)?")
_NEW_FILE = """\
# Made by `als setup`; `als setup --undo` removes it. containers-storage.conf(5)
[storage]
driver = "overlay"
runroot = "{run_root}"
graphroot = "{graph_root}"
"""
_DROP_IN = "# Made by `als setup`; `als setup --undo` removes it. containers-storage.conf(5)\n"


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look."""

    environment: Mapping[str, str]
    system: Path = Path("/")
    """Where the file system with the system's configuration starts."""

    def path(self, absolute: str) -> Path:
        return self.system / absolute.lstrip("/")

    @property
    def home(self) -> Path:
        return Path(self.environment.get("HOME") or "/root")

    @property
    def registries(self) -> Environment:
        """The same for the files of registries.conf."""
        return Environment(self.environment, self.home, 0, self.system)


def look(config: Config, place: Place, client: str | None, hosts: Sequence[str]) -> Situation:
    """Everything that the plan depends on.

    :param client: a value of :class:`Client`, if the user names one.
    :param hosts: the registries that the user names.
    :raises ConfigError: it cannot be told what is to be changed, or a file cannot be read.
    """
    podman = podman_facts(place.environment)
    installed = Installed(podman.version, crio_version(place.environment))
    chosen = choose(installed, client)
    lines = wanted(chosen, installed, config)
    # What podman says goes only for podman's own storage.
    told = podman.storage if podman.version is not None and not podman.problem else None
    storage = _storage_file(place, lines, told)
    registries = tuple((path.resolve(), path.read_bytes()) for path in conf_files(place.registries) if path.is_file())
    return Situation(
        client=chosen,
        wanted=lines,
        storage=storage,
        driver_in_use=_driver_of(podman.storage) if told is None else told.driver,
        registries=registries,
        registries_drop_in=registries_drop_in(place).resolve(),
        hosts=_hosts(config, place, hosts),
        crio=_crio_files(place, here=chosen is Client.CRIO or installed.crio is not None),
        crio_drop_in=_crio_folder(place).resolve() / "50-als.conf",
        notes=tuple(_notes(place, chosen, lines, storage)),
    )


def _driver_of(conf: StorageConf | None) -> str:
    """The driver whose layers a graph root holds, for when podman does not answer; empty if there is none, or several."""
    graph_root = Path((conf.graph_root if conf else "") or "/var/lib/containers/storage")
    found = [path.name.removesuffix("-layers") for path in graph_root.glob("*-layers")]
    return found[0] if len(found) == 1 else ""


def crio_version(environment: Mapping[str, str]) -> str | None:
    """CRI-O's version; None: it is not installed."""
    try:
        done = subprocess.run(
            ["crio", "--version"],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        return "unknown"
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout)
    return found[0] if found else "unknown"


def _crio_folder(place: Place) -> Path:
    return Path(place.environment.get("CONTAINER_CONFIG_DIR") or place.path(str(DROP_INS)))


def _crio_files(place: Place, *, here: bool) -> tuple[tuple[Path, bytes], ...] | None:
    """:param here: whether CRI-O is known to be on this machine, with or without files."""
    paths = crio_conf_files(place.environment, place.path(str(MAIN)), place.path(str(DROP_INS)))
    return tuple((path.resolve(), path.read_bytes()) for path in paths) if here or paths else None


def _storage_file(place: Place, lines: Wanted, told: StorageConf | None) -> StorageFile:
    """The file to change: the one that podman reads, or the one it will read first once it is there."""
    etc, usr = place.path("/etc/containers"), place.path("/usr/share/containers")
    named = place.environment.get("CONTAINERS_STORAGE_CONF")
    if not named and lines.drop_in:
        # Rootless podman 6 reads /etc's main file as well, and could not mount with metacopy=on.
        path = (etc / "storage.rootful.conf.d" / "als.conf").resolve()
        below = read_storage_conf(place.environment, drop_ins=True, folders=(etc, usr))
        return StorageFile(path, read_file(path), _DROP_IN.encode(), below=below)
    own = Path(place.environment.get("XDG_CONFIG_HOME") or "/nonexistent") / "containers" / "storage.conf"
    if not named and own.is_file():
        hint = f"move it away, or let als change it: CONTAINERS_STORAGE_CONF={own} als setup"
        raise ConfigError("root's own file hides that of the machine", where=str(own), hint=hint)
    path = (Path(named) if named else etc / "storage.conf").resolve()
    data = read_file(path)
    vendor = usr / "storage.conf"
    if data is None and not named and (template := read_file(vendor)) is not None:
        return StorageFile(path, None, template, str(vendor))
    roots = {
        "run_root": (told.run_root if told else "") or "/run/containers/storage",
        "graph_root": (told.graph_root if told else "") or "/var/lib/containers/storage",
    }
    return StorageFile(path, data, _NEW_FILE.format(**roots).encode())


def registries_drop_in(place: Place) -> Path:
    """Our own file among those of registries.conf."""
    environment = place.registries
    folder = environment.get("CONTAINERS_REGISTRIES_CONF_DIR")
    user = place.home / ".config" / "containers"
    files = conf_files(environment)
    if not folder and files and files[0] == user / "registries.conf":
        return user / "registries.conf.d" / "als.conf"
    return (Path(folder) if folder else place.path("/etc/containers/registries.conf.d")) / "als.conf"


def _hosts(config: Config, place: Place, asked: Sequence[str]) -> Hosts:
    for host in asked:
        if not _HOST.fullmatch(host):
            hint = "HOST[:PORT], as in the names of its images; without scheme and path"
            raise ConfigError("is not a registry's name", where=host, hint=hint)
    if asked:
        return Hosts(asked=tuple(asked))
    found = dict.fromkeys(load_conf(place.registries).search or ())
    found |= dict.fromkeys(_stored_hosts(config))
    return Hosts(found=tuple(host for host in found if _HOST.fullmatch(host) and host != "localhost"))


def _stored_hosts(config: Config) -> Iterator[str]:
    layout = Layout(config.root)
    if layout.refs.is_dir():
        for record in Images(layout).refs():
            try:
                reference = parse_reference(record.reference)
            except AlsError:
                # Pulled by digest alone, or by an older version's idea of a name: no registry to be learned from it.
                continue
            if reference.transport is Transport.DOCKER:
                yield reference.domain


def _notes(place: Place, client: Client, lines: Wanted, storage: StorageFile) -> Iterator[str]:
    if place.environment.get("CONTAINERS_STORAGE_CONF"):
        yield f"CONTAINERS_STORAGE_CONF is set: only programs that have it set read {storage.path}"
    if "STORAGE_OPTS" in place.environment:
        yield "STORAGE_OPTS is set: programs that have it set do not read the options of storage.conf"
    crio = read_crio_conf(place.environment, place.path(str(MAIN)), place.path(str(DROP_INS)))
    if crio is not None and crio.mount_options and METACOPY not in crio.mount_options:
        yield f"{crio.source}: storage_option sets mountopt without {METACOPY}, and goes before storage.conf: add it there"
    if client is Client.PODMAN4:
        yield "podman 4 cannot run images of the store with --uidmap or --userns=auto as it is: see docs/podman4.md"
    if not lines.mirror_port and client is not Client.PODMAN4:
        yield "the registry mirror is switched off (mirror_port = 0): podman finds ordinary images only after `als pull`"
    yield "`podman --root DIR` does not look into additional layer stores"


def metacopy_users(graph_root: Path) -> list[str]:
    """Layers of a graph root that hold files whose data is found by metacopy=on alone.

    Without the option such a file cannot be opened, and reads as zeros where it is committed.

    :raises ConfigError: the graph root cannot be read.
    """
    found = []
    layers = graph_root / "overlay"
    try:
        for layer in sorted(layers.iterdir()) if layers.is_dir() else []:
            # Beside diff, podman 4 makes a diff1 where it changes owners for a user namespace.
            uppers = [path for path in layer.glob("diff*") if path.is_dir() and not path.is_symlink()]
            if any(_is_metacopy(path) for upper in uppers for path in _files_of(upper)):
                found.append(layer.name)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(graph_root)) from error
    return found


def _files_of(folder: Path) -> Iterator[str]:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _files_of(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield entry.path


def _is_metacopy(path: str) -> bool:
    return "trusted.overlay.metacopy" in os.listxattr(path, follow_symlinks=False)
