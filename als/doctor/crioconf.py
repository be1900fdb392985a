"""What CRI-O's own configuration says about storage; where it says nothing, storage.conf's word holds.

Rules of CRI-O (crio.conf(5), ``pkg/config/config.go``, ``internal/criocli``): ``/etc/crio/crio.conf``, then every file below
``/etc/crio/crio.conf.d`` in lexical order, each over what went before; the environment names others (``CONTAINER_CONFIG``,
``CONTAINER_CONFIG_DIR``). ``storage_option`` is the exception: the lists of all files are joined, after the options that
come from storage.conf, and of a single-valued option like ``overlay.mountopt`` the last one holds. Command line options
of the running CRI-O are not seen here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from als.errors import ConfigError

MAIN = Path("/etc/crio/crio.conf")
DROP_INS = Path("/etc/crio/crio.conf.d")
_IMAGE_STORE_OPTIONS = ("imagestore", "additionalimagestore")


@dataclass(frozen=True, slots=True)
class CrioConf:
    """The settings that matter to als; empty where the files do not say."""

    source: str
    """Where they come from, for messages."""
    graph_root: str = ""
    run_root: str = ""
    image_store: str = ""
    """Where images and their layers go, if not below the graph root."""
    storage_options: tuple[str, ...] = ()
    """As written, such as ``overlay.mountopt=nodev``."""
    internal_repair: bool = True
    """Whether CRI-O checks, and removes, what it believes damaged after it was killed."""

    @property
    def image_stores(self) -> tuple[str, ...]:
        """The additional image stores that its own options name."""
        values = [value for name in _IMAGE_STORE_OPTIONS for value in self._values(name)]
        return tuple(path for value in values for path in value.split(",") if path)

    @property
    def mount_options(self) -> tuple[str, ...]:
        """Those of its own options; empty where it has none."""
        values = self._values("mountopt")
        return tuple(option.strip() for option in values[-1].split(",")) if values else ()

    def _values(self, name: str) -> list[str]:
        # The driver's name before the dot may be left out (``drivers/overlay/overlay.go``).
        pairs = (option.partition("=") for option in self.storage_options)
        return [value for key, _, value in pairs if key.rpartition(".")[2].lower() == name]


def parse_crio_conf(text: str, source: str, below: CrioConf | None = None) -> CrioConf:
    """The settings of one file over those that went before.

    :raises ConfigError: it is no TOML, or a setting has the wrong type.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}", where=source) from error
    table = document.get("crio", {})
    if not isinstance(table, dict):
        raise ConfigError("crio is not a table", where=source)
    below = below or CrioConf("")
    options = table.get("storage_option", [])
    repair = table.get("internal_repair", below.internal_repair)
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ConfigError("storage_option is not a list of strings", where=source)
    if not isinstance(repair, bool):
        raise ConfigError("internal_repair is neither true nor false", where=source)
    return CrioConf(
        source=f"{below.source}, {source}" if below.source else source,
        graph_root=_string(table, "root", source) or below.graph_root,
        run_root=_string(table, "runroot", source) or below.run_root,
        image_store=_string(table, "imagestore", source) or below.image_store,
        storage_options=(*below.storage_options, *options),
        internal_repair=repair,
    )


def read_crio_conf(environment: Mapping[str, str], main: Path = MAIN, drop_ins: Path = DROP_INS) -> CrioConf | None:
    """The settings in CRI-O's files; None: there are none, so most likely there is no CRI-O.

    :raises ConfigError: a file cannot be read or understood.
    """
    conf: CrioConf | None = None
    for path in crio_conf_files(environment, main, drop_ins):
        try:
            conf = parse_crio_conf(path.read_text(encoding="utf-8"), str(path), conf)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot be read: {error}", where=str(path)) from error
    return conf


def crio_conf_files(environment: Mapping[str, str], main: Path = MAIN, drop_ins: Path = DROP_INS) -> list[Path]:
    """The files that CRI-O reads, those that count more later."""
    main = Path(environment.get("CONTAINER_CONFIG") or main)
    drop_ins = Path(environment.get("CONTAINER_CONFIG_DIR") or drop_ins)
    return ([main] if main.is_file() else []) + sorted(_files(drop_ins), key=lambda path: path.parts)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _string(table: Mapping[str, object], key: str, source: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise ConfigError(f"{key} is not a string", where=source)
    return value
