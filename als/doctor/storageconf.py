"""What podman's storage.conf says about additional stores, and what podman says it made of it.

Rules of containers/storage (types/options.go, pkg/config/config.go; containers-storage.conf(5)): of
``CONTAINERS_STORAGE_CONF``, ``/etc/containers/storage.conf`` and ``/usr/share/containers/storage.conf`` the first that
exists is read, alone. podman 6 also reads drop-in files of both folders; one in ``/etc`` hides its namesake.
``mountopt`` of ``[storage.options.overlay]`` goes before that of ``[storage.options]``.

``podman info`` is the better witness, since it knows of ``STORAGE_OPTS`` and of rules yet to come, but it shows of several
additional layer stores (with podman 4 also image stores) the last one only. So both are read.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from als.errors import ConfigError

_FOLDERS = (Path("/etc/containers"), Path("/usr/share/containers"))
_DROP_INS = ("storage.conf.d", "storage.rootful.conf.d")


@dataclass(frozen=True, slots=True)
class StorageConf:
    """The storage settings that matter to als."""

    source: str
    """Where they come from, for messages."""
    driver: str = ""
    graph_root: str = ""
    run_root: str = ""
    layer_stores: tuple[str, ...] = ()
    """``additionallayerstores`` as written, with ``:ref``."""
    image_stores: tuple[str, ...] = ()
    mount_options: tuple[str, ...] = ()
    mount_program: str = ""


def parse_storage_conf(text: str, source: str) -> StorageConf:
    """The settings of one file; empty where it does not say.

    :raises ConfigError: it is no TOML, or a setting has the wrong type.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}", where=source) from error
    storage = _table(document, "storage", source)
    options = _table(storage, "options", source)
    overlay = _table(options, "overlay", source)
    mountopt = _string(overlay, "mountopt", source) or _string(options, "mountopt", source)
    return StorageConf(
        source=source,
        driver=_string(storage, "driver", source),
        graph_root=_string(storage, "graphroot", source),
        run_root=_string(storage, "runroot", source),
        layer_stores=_strings(options, "additionallayerstores", source),
        image_stores=_strings(options, "additionalimagestores", source),
        mount_options=_split(mountopt),
        mount_program=_string(overlay, "mount_program", source) or _string(options, "mount_program", source),
    )


def parse_podman_info(info: Mapping[str, object]) -> StorageConf:
    """The settings that a running podman uses, from ``podman info --format json``.

    :raises ConfigError: the document is not podman's.
    """
    where = "podman info"
    store = _table(info, "store", where)
    # From 5.8 on most of them are named without the driver.
    options = {key.rpartition(".")[2]: value for key, value in _table(store, "graphOptions", where).items()}
    program = options.get("mount_program", "")
    images = _strings(options, "additionalImageStores", where) or _as_tuple(_string(options, "imagestore", where))
    return StorageConf(
        source=_string(store, "configFile", where) or where,
        driver=_string(store, "graphDriverName", where),
        graph_root=_string(store, "graphRoot", where),
        run_root=_string(store, "runRoot", where),
        layer_stores=_as_tuple(_string(options, "additionallayerstore", where)),
        image_stores=images,
        mount_options=_split(_string(options, "mountopt", where)),
        mount_program=_string(program, "Executable", where) if isinstance(program, dict) else str(program),
    )


def combine(files: StorageConf | None, podman: StorageConf | None) -> StorageConf | None:
    """podman's word, with the lists of the files where podman shows but the last entry of the same list."""
    if podman is None:
        return files
    if files is None:
        # podman names its default file also where there is none.
        return replace(podman, source="no storage.conf")
    layers, images = podman.layer_stores, podman.image_stores
    return replace(
        podman,
        layer_stores=files.layer_stores if layers and layers[-1] in files.layer_stores else layers,
        image_stores=files.image_stores if images and images[-1] in files.image_stores else images,
    )


def merge(lower: StorageConf, upper: StorageConf) -> StorageConf:
    """`upper`'s settings where it has them, else `lower`'s."""
    return StorageConf(
        source=f"{lower.source}, {upper.source}",
        driver=upper.driver or lower.driver,
        graph_root=upper.graph_root or lower.graph_root,
        run_root=upper.run_root or lower.run_root,
        layer_stores=upper.layer_stores or lower.layer_stores,
        image_stores=upper.image_stores or lower.image_stores,
        mount_options=upper.mount_options or lower.mount_options,
        mount_program=upper.mount_program or lower.mount_program,
    )


def read_storage_conf(
    environment: Mapping[str, str], *, drop_ins: bool = False, folders: Sequence[Path] = _FOLDERS
) -> StorageConf | None:
    """The settings in the files that podman of root reads; None: there is no such file.

    :param drop_ins: as podman 6 and later.
    :param folders: where the files are looked for, what goes first before what comes after.
    :raises ConfigError: a file cannot be read or understood.
    """
    named = environment.get("CONTAINERS_STORAGE_CONF", "")
    mains = ([Path(named)] if named else [folder / "storage.conf" for folder in folders[:1]]) + [
        folder / "storage.conf" for folder in folders[1:]
    ]
    found = [path for path in mains if path.is_file()][:1]
    if drop_ins and not named:
        by_name = {
            path.name: path for folder in reversed(folders) for sub in _DROP_INS for path in (folder / sub).glob("*.conf")
        }
        found += [by_name[name] for name in sorted(by_name)]
    merged: StorageConf | None = None
    for path in found:
        conf = _read(path)
        merged = conf if merged is None else merge(merged, conf)
    return merged


def _read(path: Path) -> StorageConf:
    try:
        return parse_storage_conf(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from error


def _table(container: Mapping[str, object], key: str, where: str) -> dict[str, object]:
    value = container.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{key} is not a table", where=where)
    return value


def _string(container: Mapping[str, object], key: str, where: str) -> str:
    value = container.get(key, "")
    if not isinstance(value, str):
        raise ConfigError(f"{key} is not a string", where=where)
    return value


def _strings(container: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    value = container.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{key} is not a list of strings", where=where)
    return tuple(value)


def _as_tuple(value: str) -> tuple[str, ...]:
    return (value,) if value else ()


def _split(options: str) -> tuple[str, ...]:
    return tuple(option.strip() for option in options.split(",") if option.strip())
