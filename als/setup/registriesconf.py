"""Which changes registries.conf needs so that pulls go through the mirror. Pure.

containers/image takes, of all ``[[registry]]`` blocks, the one with the longest prefix that matches the image's name, and
replaces that prefix by the mirror's location (``pkg/sysregistriesv2``). So the mirror's location has to end in the prefix
for the mirror to see the whole name (:mod:`als.registry.mirrored`), and every block of a registry needs it, also those of
single repositories. A block in a drop-in file replaces the whole block of the same prefix that was read before; therefore an
existing block is changed where it is, and only a registry that has none gets one, in a drop-in of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from als.doctor.mirrorconf import is_our_mirror
from als.errors import ConfigError
from als.registry.conf import match_prefix, parse_conf
from als.registry.mirrored import location_for
from als.setup.edits import Edit, Kind, parse, prefix_of, registry_of

HEADER = b"# Pulls through the registry mirror of als. Written by `als setup`; `als setup --undo` removes it.\n\n"


@dataclass(frozen=True, slots=True)
class Hosts:
    """The registries that are to be mirrored."""

    asked: tuple[str, ...] = ()
    """Named by the user: one that cannot be mirrored is an error."""
    found: tuple[str, ...] = ()
    """Found on the machine: one that cannot be mirrored is left out, and said."""


@dataclass(frozen=True, slots=True)
class Planned:
    """The changes by file, and what is left out and why."""

    edits: Mapping[Path, tuple[Edit, ...]]
    notes: tuple[str, ...] = ()


def registries_edits(files: Sequence[tuple[Path, bytes]], drop_in: Path, port: int, hosts: Hosts) -> Planned:
    """The changes that make podman ask the mirror first.

    :param files: all files of the configuration, those that count more later.
    :param drop_in: our own file, which may be among them; blocks for registries without one go there.
    :param port: of the mirror.
    :raises ConfigError: a file is malformed, or a registry that was asked for cannot be mirrored.
    """
    parsed = [(path, parse(data, str(path))) for path, data in files]
    for path, data in files:
        parse_conf(data.decode("utf-8"), str(path))
    edits: dict[Path, list[Edit]] = {}
    notes: list[str] = []
    for host in dict.fromkeys((*hosts.asked, *hosts.found)):
        try:
            for path, edit in _host_edits(parsed, drop_in, port, host):
                edits.setdefault(path, []).append(edit)
        except ConfigError as error:
            if host in hosts.asked:
                raise
            notes.append(f"{error.where or host} is not mirrored: {error.what}; {error.hint}")
    return Planned({path: tuple(changes) for path, changes in edits.items()}, tuple(notes))


def _host_edits(
    parsed: Sequence[tuple[Path, Mapping[str, Any]]], drop_in: Path, port: int, host: str
) -> Iterator[tuple[Path, Edit]]:
    blocks = {prefix_of(block): path for path, tables in parsed for block in tables.get("registry", [])}
    by_path = dict(parsed)
    location = location_for(host, port)
    own = [prefix for prefix in blocks if prefix == host or _can_be_mirrored(prefix, host, port)]
    # First everything that may be refused, so that a registry is mirrored whole or not at all.
    for prefix in own:
        _refuse_block(blocks[prefix], registry_of(by_path[blocks[prefix]], prefix), prefix)
    if host not in blocks:
        _refuse_host(parsed, host)
    for prefix in own:
        block = registry_of(by_path[blocks[prefix]], prefix) or {}
        known = [str(entry.get("location", "")).rstrip("/") for entry in block.get("mirror", [])]
        if location_for(prefix, port) not in known:
            stale = next((mirror for mirror in known if is_our_mirror(mirror, prefix)), None)
            yield blocks[prefix], Edit(Kind.MIRROR, (prefix,), stale, location_for(prefix, port))
    if host not in blocks:
        yield drop_in, Edit(Kind.REGISTRY, (host,), None, location)


def _can_be_mirrored(prefix: str, host: str, port: int) -> bool:
    """Whether a block of something below a registry can name the mirror; one for a single tag cannot, and stays as it is."""
    try:
        return prefix.startswith(f"{host}/") and bool(location_for(prefix, port))
    except ConfigError:
        return False


def _refuse_block(path: Path, block: Mapping[str, Any] | None, prefix: str) -> None:
    if block is not None and block.get("blocked") is True:
        raise ConfigError(f"{path} blocks it", where=prefix, hint="remove blocked = true there if that is no longer wanted")
    if path.is_relative_to("/usr"):
        hint = "copy its block to a file in /etc/containers/registries.conf.d"
        raise ConfigError(f"its settings are in {path}, which belongs to a package", where=prefix, hint=hint)


def _refuse_host(parsed: Sequence[tuple[Path, Mapping[str, Any]]], host: str) -> None:
    """A block of our own must not take the place of settings that held for the registry so far."""
    for path, tables in parsed:
        for block in tables.get("registry", []):
            prefix = prefix_of(block)
            if prefix.startswith("*.") and match_prefix(host, prefix) is not None:
                hint = f"a mirror behind a wildcard does not learn the registry's name: write a [[registry]] for {host} there"
                raise ConfigError(f"{path} has settings for {prefix}", where=host, hint=hint)
        old = tables.get("registries")
        if isinstance(old, dict) and any(host in (old.get(name) or {}).get("registries", []) for name in ("insecure", "block")):
            hint = "bring the file to version 2: containers-registries.conf(5)"
            raise ConfigError(f"{path} has settings for it in the old format", where=host, hint=hint)
