"""From what the files say to what they are to say. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from als.doctor.storageconf import StorageConf
from als.setup import crioconf, registriesconf
from als.setup.clients import Client, Wanted
from als.setup.crioconf import crio_edit
from als.setup.edits import Edit, perform
from als.setup.registriesconf import Hosts, registries_edits
from als.setup.storageconf import storage_edits


@dataclass(frozen=True, slots=True)
class StorageFile:
    """The storage.conf that is to be changed."""

    path: Path
    data: bytes | None
    """None: it does not exist yet, and is made from the template."""
    template: bytes = b""
    template_source: str = ""
    """The file that the template is a copy of; empty: it is made up."""
    below: StorageConf | None = None
    """For a drop-in, the settings that hold without it."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the plan depends on."""

    client: Client
    wanted: Wanted
    storage: StorageFile
    driver_in_use: str
    registries: tuple[tuple[Path, bytes], ...]
    """The files of registries.conf, those that count more later."""
    registries_drop_in: Path
    hosts: Hosts
    crio: tuple[tuple[Path, bytes], ...] | None
    """The files of CRI-O, those that count more later; None: it is not here."""
    crio_drop_in: Path
    notes: tuple[str, ...] = ()
    """What the user should know of how this was found out."""


@dataclass(frozen=True, slots=True)
class Change:
    """One file that is to become another."""

    path: Path
    before: bytes | None
    after: bytes
    edits: tuple[Edit, ...]
    source: str = ""
    """What a new file is a copy of."""
    copied: bytes = b""
    """What that holds."""

    def diff(self) -> str:
        """The change as a unified diff; of a copy, from what it is a copy of."""
        if self.before is None and self.source:
            return unified_diff(self.copied, self.after, self.path, self.source)
        return unified_diff(self.before, self.after, self.path)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, and what there is to say."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...]


def make_plan(situation: Situation) -> Plan:
    """The changes that a machine needs; none where everything is as it should be.

    :raises ConfigError: a file cannot be understood, or rules als out.
    """
    notes = list(situation.notes)
    changes: list[Change] = []
    storage = situation.storage
    before = storage.template if storage.data is None else storage.data
    where = str(storage.path) if storage.data is not None or not storage.template_source else storage.template_source
    edits = storage_edits(before, where, situation.wanted, situation.driver_in_use, storage.below)
    if edits:
        after = perform(before, edits, where)
        changes.append(Change(storage.path, storage.data, after, tuple(edits), storage.template_source, before))
        if storage.data is None and storage.template_source:
            notes.append(f"{storage.path} becomes a copy of {storage.template_source}, which is not read any more then")
    if situation.wanted.mirror_port:
        planned = registries_edits(
            situation.registries, situation.registries_drop_in, situation.wanted.mirror_port, situation.hosts
        )
        files = dict(situation.registries)
        for path, changed in planned.edits.items():
            data = files.get(path)
            changes.append(Change(path, data, perform(data or registriesconf.HEADER, changed, str(path)), changed))
        notes += planned.notes
        if not (situation.hosts.asked or situation.hosts.found):
            notes.append("no registry is known here to be mirrored: name those that you pull from by --registry HOST")
    if situation.crio is not None and (found := crio_edit(situation.crio, situation.crio_drop_in)) is not None:
        path, edit = found
        data = dict(situation.crio).get(path)
        # Before the stores are named: nobody may find the one without the other.
        changes.insert(0, Change(path, data, perform(data or crioconf.HEADER, [edit], str(path)), (edit,)))
        notes.append("CRI-O must not repair its storage by itself with additional stores: docs/crio.md says why")
    return Plan(tuple(changes), tuple(notes))


def unified_diff(before: bytes | None, after: bytes | None, path: Path, source: str = "") -> str:
    """Two contents of a file as diff(1) shows them; None stands for no file.

    :param source: the old one's name, if that is another.
    """
    old, new = (_lines(data) for data in (before, after))
    names = ("/dev/null" if before is None else source or str(path), "/dev/null" if after is None else str(path))
    return "".join(_whole_lines(difflib.unified_diff(old, new, *names)))


def _lines(data: bytes | None) -> list[str]:
    # Not splitlines(), for which a form feed ends a line as well.
    text = (data or b"").decode("utf-8", "replace")
    return [line + "\n" for line in text.split("\n")[:-1]] + ([last] if (last := text.rpartition("\n")[2]) else [])


def _whole_lines(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
