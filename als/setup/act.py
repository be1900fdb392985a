"""Doing what was planned, and undoing it: files, backups and the journal together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from als.doctor.storageconf import parse_storage_conf
from als.errors import ConfigError
from als.setup import files
from als.setup.journal import Record, Undone, loses_metacopy, next_record, read_journal, undo, write_journal
from als.setup.machine import metacopy_users
from als.setup.plan import Change
from als.store.layout import Layout
from als.store.lock import locked

_LOCK_SECONDS = 30.0
_DEFAULT_GRAPH_ROOT = "/var/lib/containers/storage"


@dataclass(frozen=True, slots=True)
class Journal:
    """Where is written down what was done. The folder is the store's root, which must exist."""

    root: Path

    @property
    def path(self) -> Path:
        return Layout(self.root).setup

    @property
    def lock(self) -> Path:
        return Layout(self.root).locks / "setup"


def apply(changes: Sequence[Change], journal: Journal) -> list[Record]:
    """Write the files, each with its former content kept beside; all of them or none.

    :raises ConfigError: a file cannot be written, or has changed since the plan was made.
    :raises StoreError: the journal cannot be written.
    """
    with locked(journal.lock, timeout=_LOCK_SECONDS):
        records = read_journal(journal.path)
        contents: dict[Path, bytes | None] = {}
        like: dict[Path, Path] = {}
        made: list[Record] = []
        for change in changes:
            if files.read_file(change.path) != change.before:
                raise ConfigError("has changed in the meantime", where=str(change.path), hint="run `als setup` again")
            record = next_record(records.get(change.path), change.path, change.before, change.after, change.edits)
            if change.before is not None and (record.backup is None or not record.exact):
                saved = files.backup_path(change.path)
                contents[saved] = change.before
                like[saved] = change.path
                record = replace(record, backup=record.backup or saved)
            elif change.source:
                like[change.path] = Path(change.source)
            contents[change.path] = change.after
            records[change.path] = record
            made.append(record)
        # The journal first: a crash in between leaves records of changes that were not made, which undo passes over.
        write_journal(journal.path, records.values())
        files.replace(contents, like)
        return made


def plan_undo(journal: Journal, *, keep_metacopy: bool = False) -> list[Undone]:
    """What undoing would make of each file.

    :raises ConfigError: a file cannot be read, somebody changed just what als had set, or taking metacopy=on away would
        leave containers with files that cannot be read.
    """
    undone = []
    for record in reversed(read_journal(journal.path).values()):
        current = files.read_file(record.path)
        saved = None if record.backup is None else files.read_file(record.backup)
        step = undo(record, current, saved, keep_metacopy=keep_metacopy)
        if step.after != step.before and not keep_metacopy and loses_metacopy(record):
            _refuse_if_used(step)
        undone.append(step)
    return undone


def carry_out(undone: Sequence[Undone], journal: Journal) -> None:
    """Bring the files back, and forget that they were ever changed.

    :raises ConfigError: a file cannot be written, or has changed since the plan was made.
    """
    with locked(journal.lock, timeout=_LOCK_SECONDS):
        for step in undone:
            if files.read_file(step.record.path) != step.before:
                raise ConfigError("has changed in the meantime", where=str(step.record.path), hint="try again")
        files.replace({step.record.path: step.after for step in undone if step.after != step.before})
        gone = {step.record.path for step in undone}
        rest = [record for path, record in read_journal(journal.path).items() if path not in gone]
        write_journal(journal.path, rest)
        for step in undone:
            backup = step.record.backup
            # A backup of something else than is there now is the only copy of it.
            if backup is not None and files.digest(step.after) == step.record.original == files.digest(files.read_file(backup)):
                files.replace({backup: None})


def _refuse_if_used(step: Undone) -> None:
    conf = parse_storage_conf((step.before or b"").decode("utf-8"), str(step.record.path))
    graph_root = Path(conf.graph_root or _DEFAULT_GRAPH_ROOT)
    layers = metacopy_users(graph_root)
    if layers:
        what = (
            f"{len(layers)} layers of containers hold files whose data is found by metacopy=on alone: {', '.join(layers[:3])}"
        )
        hint = "`als setup --undo --keep-metacopy` leaves that option, which is harmless; or remove those containers first"
        raise ConfigError(what, where=str(graph_root), hint=hint)
