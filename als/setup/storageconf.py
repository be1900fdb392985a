"""Which changes a storage.conf needs. Pure.

What containers/storage makes of the file (``types/options.go``, ``pkg/config/config.go``) decides where things go: without
``driver`` the whole table ``[storage.options.overlay]`` is ignored before podman 6; a mountopt there hides the one of
``[storage.options]``, so it is changed where it counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from als.doctor.storageconf import StorageConf, parse_storage_conf
from als.errors import ConfigError
from als.setup.clients import Wanted
from als.setup.edits import METACOPY, VERITY, Edit, Kind, parse

_OVERLAY = ("storage", "options", "overlay")
_OPTIONS = ("storage", "options")
_DRIVER = ("storage", "driver")
_NEW_MOUNTOPT = f"nodev,{METACOPY}"
_CONFLICTS = {"redirect_dir": ("", "on"), "nfs_export": ("off",), "userxattr": ()}
"""Options of overlayfs that the kernel refuses together with metacopy=on, and the values that it does not mind."""


def storage_edits(data: bytes, where: str, wanted: Wanted, driver_in_use: str, below: StorageConf | None = None) -> list[Edit]:
    """The changes that make a storage.conf name als; none if it does already.

    :param driver_in_use: the driver that podman uses; empty where it could not be asked.
    :param below: for a drop-in file, the settings that hold without it.
    :raises ConfigError: the file is malformed, or says something that rules als out.
    """
    values = parse(data, where)
    conf = parse_storage_conf(data.decode("utf-8"), where)
    base = below or StorageConf(source=where)
    _refuse(conf, base, where, driver_in_use)
    edits: list[Edit] = []
    driver = conf.driver or base.driver
    if driver != "overlay":
        edits.append(Edit(Kind.VALUE, _DRIVER, conf.driver or None, "overlay"))
    options = values.get("storage", {}).get("options", {})
    lists = {
        "additionallayerstores": _list_edits(conf.layer_stores, base.layer_stores, wanted.layer_store, ()),
        "additionalimagestores": _list_edits(
            conf.image_stores, base.image_stores, wanted.image_store, wanted.other_image_stores
        ),
    }
    for key, items in lists.items():
        if items and key not in options:
            edits.append(Edit(Kind.LIST, (*_OPTIONS, key), None, None))
        edits += [Edit(Kind.ITEM, (*_OPTIONS, key), old, new) for old, new in items]
    edits += _mountopt_edits(values, base.mount_options, where, verity=wanted.verity)
    return edits


def _refuse(conf: StorageConf, base: StorageConf, where: str, driver_in_use: str) -> None:
    driver = conf.driver or base.driver
    if driver not in ("", "overlay", "overlay2"):
        hint = 'set driver = "overlay" (images and containers of the old driver are not seen any more), or leave als out'
        raise ConfigError(f"the storage driver is {driver!r}; additional stores exist for overlay only", where=where, hint=hint)
    if driver_in_use not in ("", "overlay"):
        what = f"podman uses the driver {driver_in_use!r}"
        what += ", although the file says overlay" if driver else ", which is what it once chose by itself; the file names none"
        hint = "its database decides: `podman system reset` (removes all containers and images), or another graphroot"
        raise ConfigError(what, where=where, hint=hint)
    program = conf.mount_program or base.mount_program
    if program:
        what = f"mount_program {program} mounts in place of the kernel, and would find no file's data"
        raise ConfigError(what, where=where, hint="remove mount_program: the kernel's overlay is needed, and faster")


def _list_edits(
    own: Sequence[str], below: Sequence[str], new: str, others: Sequence[str]
) -> list[tuple[str | None, str | None]]:
    """What goes out of a list, and what comes in. Ours goes to the end: whoever was asked first before is so still."""
    wrong = [item for item in own or below if _path(item) in map(_path, (new, *others)) and not _same(item, new)]
    if not wrong and any(_same(item, new) for item in own or below):
        return []
    edits: list[tuple[str | None, str | None]] = [(item, None) for item in wrong]
    if not own:
        # A list in a drop-in replaces the one below it, so it repeats the entries of that.
        edits = [(None, item) for item in below if item not in wrong and not _same(item, new)]
    return edits if any(_same(item, new) for item in own) else [*edits, (None, new)]


def _path(entry: str) -> str:
    return entry.removesuffix(":ref").rstrip("/")


def _same(entry: str, new: str) -> bool:
    return _path(entry) == _path(new) and entry.endswith(":ref") == new.endswith(":ref")


def _mountopt_edits(values: Mapping[str, Any], below: Sequence[str], where: str, *, verity: bool) -> list[Edit]:
    # parse_storage_conf has checked the types.
    options = values.get("storage", {}).get("options", {})
    overlay = options.get("overlay", {})
    keys: tuple[str, ...] = (*_OVERLAY, "mountopt")
    if not overlay.get("mountopt") and options.get("mountopt"):
        keys = (*_OPTIONS, "mountopt")
    old = overlay.get("mountopt") if keys[:-1] == _OVERLAY else options["mountopt"]
    given = old or ",".join(below)
    new = _with_metacopy(given, where)
    if verity:
        new = _with_verity(new)
    return [] if new == given else [Edit(Kind.OPTION, keys, old, new)]


def _with_metacopy(given: str, where: str) -> str:
    options = [option.strip() for option in given.split(",") if option.strip()]
    for option in options:
        name, _, value = option.partition("=")
        if name in _CONFLICTS and value not in _CONFLICTS[name]:
            what = f"mountopt has {option}, which the kernel does not accept together with {METACOPY}"
            raise ConfigError(what, where=where, hint=f"als needs {METACOPY}: remove {option} from mountopt")
    if not options:
        return _NEW_MOUNTOPT
    if [option for option in options if option.startswith("metacopy=")] == [METACOPY]:
        return given
    return ",".join([*(option for option in options if not option.startswith("metacopy=")), METACOPY])


def _with_verity(options: str) -> str:
    """With one option ``verity=``, namely the one that refuses what is not sealed."""
    given = options.split(",")
    ours = [option for option in given if option.strip().startswith("verity=")]
    return options if ours == [VERITY] else ",".join([*(option for option in given if option not in ours), VERITY])
