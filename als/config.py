"""What the administrator can set: a TOML file, and options of the command line which win over it.

Few settings on purpose. Everything about registries (mirrors, certificates, credentials) is read from the files of
containers/*, so that it need not be said twice.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import pwd
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from als.errors import ConfigError

DEFAULT_FILE = Path("/etc/als/als.toml")
LOG_LEVELS = ("debug", "info", "warning", "error")
LAYOUTS = ("diffN", "composefs")
LAZY = ("auto", "always", "never")
VERITY = ("off", "prefer", "require")
_WORKER_USER = "als"
_NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Config:
    """All settings; the names are those of the file."""

    root: Path = Path("/var/lib/als")
    """The store. Should lie on the file system of podman's graph root, so that files can be shared by reflink."""
    run: Path = Path("/run/als")
    """Sockets, locks and all that need not outlive a reboot."""
    worker_user: str = _WORKER_USER
    """The user, a name or a number, as whom network and parsing run."""
    lookup_deadline: float = 30.0
    """Seconds without progress after which a client's lookup is answered with "not here"."""
    max_workers: int = 0
    """Layers made at once, each with a worker of its own; 0: one for each CPU and one more."""
    log_level: str = "info"
    """One of ``LOG_LEVELS``."""
    clients: tuple[Path, ...] = ()
    """Graph roots of podman or CRI-O that use the store and that no storage.conf names; `als gc` asks them what they use."""
    layouts: tuple[str, ...] = ()
    """In which of ``LAYOUTS`` images are published: diffN for podman 4 (``is4``), composefs for podman 5 and later and CRI-O
    (``image-store``). Empty, or "auto": in those whose folder a storage.conf in use names; in both if none is named."""
    mirror_port: int = 978
    """Where the registry mirror listens on 127.0.0.1, as registries.conf names it; 0: there is none. Below 1024, where only
    root may listen: whoever has the port while als does not run can give root any image for the one it asks for."""
    lazy: str = "auto"
    """One of ``LAZY``: whether layers with a table of contents are shown before they are here; "auto": where it is quicker."""
    background: bool = True
    """Whether the rest of a layer that is served before all of it is here is fetched unasked."""
    background_rate: int = 0
    """Bytes per second that this may take from the network; 0: what there is."""
    record_profiles: bool = True
    """Whether it is recorded which files containers of an image read first, so that these are fetched first next time. False:
    nothing is recorded, and nothing that was recorded is used."""
    mirror_users: tuple[str, ...] = ()
    """Users (names or numbers) whom the mirror serves beside root, with what is open to everybody."""
    metrics_port: int = 0
    """Where metrics can be read on 127.0.0.1, by any user of this machine; 0: only at RUN/metrics.sock, by root."""
    verity: str = "prefer"
    """One of ``VERITY``: whether what is stored is sealed with fs-verity; "prefer": where kernel and file system can;
    "require": nothing is published that is not, and no layer before all of it is here."""
    scrub_rate: int = 2_000_000
    """Bytes per second at which the daemon reads objects to see whether they are as they were; 0: it does not."""

    @property
    def layer_store(self) -> Path:
        """The FUSE mount that ``additionallayerstores`` in storage.conf names."""
        return self.root / "store"

    @property
    def image_store4(self) -> Path:
        """The image store in podman 4's layout, which ``additionalimagestores`` in storage.conf names."""
        return self.root / "is4"

    @property
    def image_store(self) -> Path:
        """The image store in the layout for podman 5 and later and CRI-O; named in the same place."""
        return self.root / "image-store"

    def mirror_ids(self) -> frozenset[int]:
        """The user IDs of ``mirror_users``.

        :raises ConfigError: there is no such user.
        """
        try:
            return frozenset(int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid for user in self.mirror_users)
        except (KeyError, OverflowError) as error:
            raise ConfigError("no such user", where=f"mirror_users {', '.join(self.mirror_users)}") from error

    def layers_at_once(self) -> int:
        """How many layers are made side by side. One more than there are CPUs, since some always wait for the disk or the
        registry; as many as the administrator says, if he does."""
        return self.max_workers or (os.cpu_count() or 2) + 1

    def worker_ids(self) -> tuple[int, int]:
        """The user and group id of the workers.

        The default user falls back to nobody's id where it was not created; one that was asked for must exist.

        :raises ConfigError: there is no such user, or it is root.
        """
        try:
            entry = pwd.getpwuid(int(self.worker_user)) if self.worker_user.isdecimal() else pwd.getpwnam(self.worker_user)
            uid, gid = entry.pw_uid, entry.pw_gid
        except (KeyError, OverflowError) as error:
            if self.worker_user.isdecimal():
                uid = gid = int(self.worker_user)
            elif self.worker_user == _WORKER_USER:
                uid = gid = _NOBODY
            else:
                hint = "`useradd --system` it, or set worker_user"
                raise ConfigError("no such user", where=f"worker_user {self.worker_user}", hint=hint) from error
        if uid == 0 or gid == 0:
            raise ConfigError("workers must not run as root", where=f"worker_user {self.worker_user}")
        return uid, gid


def parse_config(text: str, where: str = "als.toml") -> Config:
    """The settings of a TOML text; the default for each that it does not name.

    :param where: names the text in errors.
    :raises ConfigError: it is no TOML, a key is unknown, or a value is of the wrong type or out of range.
    """
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}", where=where) from error
    return _with_values(Config(), values, where)


def load_config(file: Path | None = None, overrides: Mapping[str, object] | None = None) -> Config:
    """The settings in force.

    :param file: the file to read, which must exist; None: the default file if there is one.
    :param overrides: settings of the command line by name; those that are None were not given.
    :raises ConfigError: as :func:`parse_config`, or the file cannot be read.
    """
    path = DEFAULT_FILE if file is None else file
    try:
        config = parse_config(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        if file is not None:
            raise ConfigError("no such file", where=str(path)) from error
        config = Config()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from error
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    return _with_values(config, given, "command line")


def _with_values(config: Config, values: Mapping[str, object], where: str) -> Config:
    known = [field.name for field in dataclasses.fields(Config)]
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"unknown setting {name!r}", where=where, hint=f"the nearest known one is {near!r}")
        checked[name] = _checked(name, value, f"{where}: {name}")
    return dataclasses.replace(config, **checked)


def _checked(name: str, value: object, where: str) -> object:
    match name, value:
        case (("root" | "run"), (str() | Path())):
            path = Path(value)
            if not path.is_absolute():
                raise ConfigError(f"{str(value)!r} is not an absolute path", where=where)
            return path
        case "clients", list() | tuple():
            if not all(isinstance(path, str | Path) and Path(path).is_absolute() for path in value):
                raise ConfigError(f"{value!r} is not a list of absolute paths", where=where)
            return tuple(Path(path) for path in value)
        case "layouts", "auto":
            return ()
        case "layouts", list() | tuple():
            if not value or not all(layout in LAYOUTS for layout in value):
                raise ConfigError(f'{value!r} is neither "auto" nor a list of {", ".join(LAYOUTS)}', where=where)
            return tuple(value)
        case "worker_user", str() if value:
            return value
        case "lookup_deadline", int() | float() if not isinstance(value, bool):
            if not 0 < value <= 3600:
                raise ConfigError(f"{value} is not between 0 and 3600 seconds", where=where)
            return float(value)
        case "max_workers", int() if not isinstance(value, bool):
            if not 0 <= value <= 1024:
                raise ConfigError(f"{value} is not between 0 and 1024", where=where)
            return value
        case (("mirror_port" | "metrics_port"), int()) if not isinstance(value, bool):
            if not 0 <= value <= 65535:
                raise ConfigError(f"{value} is not between 0 and 65535", where=where)
            return value
        case "lazy", str():
            if value not in LAZY:
                raise ConfigError(f"{value!r} is none of {', '.join(LAZY)}", where=where)
            return value
        case "verity", str():
            if value not in VERITY:
                raise ConfigError(f"{value!r} is none of {', '.join(VERITY)}", where=where)
            return value
        case (("background" | "record_profiles"), bool()):
            return value
        case (("background_rate" | "scrub_rate"), int()) if not isinstance(value, bool):
            if value < 0:
                raise ConfigError(f"{value} is not a number of bytes per second", where=where)
            return value
        case "mirror_users", list() | tuple():
            if not all((isinstance(user, str) and user) or (type(user) is int and user >= 0) for user in value):
                raise ConfigError(f"{value!r} is not a list of users", where=where)
            return tuple(str(user) for user in value)
        case "log_level", str():
            if value not in LOG_LEVELS:
                raise ConfigError(f"{value!r} is none of {', '.join(LOG_LEVELS)}", where=where)
            return value
        case _:
            raise ConfigError(f"{value!r} is not a value for it", where=where)
