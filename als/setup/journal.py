"""What `als setup --apply` did, in ROOT/setup.json, so that `als setup --undo` can take it back: exactly where it may.

A file nobody touched since gets back what it was, byte by byte, from its backup. Out of one that somebody changed, only our
changes are taken (:func:`als.setup.edits.revert`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from als.errors import StoreDamaged
from als.setup.edits import METACOPY, Edit, Kind, revert
from als.setup.files import digest
from als.store.atomic import read_json, write_json


@dataclass(frozen=True, slots=True)
class Record:
    """One file that was changed."""

    path: Path
    original: str | None
    """sha256 of what it held before als first changed it; None: there was no such file."""
    written: str
    """sha256 of what als wrote last."""
    backup: Path | None
    edits: tuple[Edit, ...]
    """All changes since the original."""
    exact: bool = True
    """Whether nobody else changed the file between changes of als."""

    def as_json(self) -> dict[str, object]:
        return {
            "path": str(self.path),
            "original": self.original,
            "written": self.written,
            "backup": None if self.backup is None else str(self.backup),
            "edits": [edit.as_json() for edit in self.edits],
            "exact": self.exact,
        }

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Record:
        """What :meth:`as_json` gave.

        :raises KeyError, ValueError, TypeError: it is something else.
        """
        return cls(
            path=Path(value["path"]),
            original=None if value["original"] is None else str(value["original"]),
            written=str(value["written"]),
            backup=None if value["backup"] is None else Path(value["backup"]),
            edits=tuple(Edit.of_json(edit) for edit in value["edits"]),
            exact=bool(value["exact"]),
        )


@dataclass(frozen=True, slots=True)
class Undone:
    """What a file becomes when als's changes are taken back."""

    record: Record
    before: bytes | None
    after: bytes | None
    """None: it is removed."""


def next_record(known: Record | None, path: Path, before: bytes | None, after: bytes, edits: Sequence[Edit]) -> Record:
    """The record of a change, together with what is recorded of the file already; its backup is yet to be named."""
    was, becomes = digest(before), str(digest(after))
    if known is None or was == known.original:
        return Record(path, was, becomes, None, tuple(edits))
    exact = known.exact and was == known.written
    return replace(known, written=becomes, edits=(*known.edits, *edits), exact=exact)


def undo(record: Record, current: bytes | None, saved: bytes | None, *, keep_metacopy: bool = False) -> Undone:
    """How a file is brought back.

    :param saved: what its backup holds.
    :param keep_metacopy: leave the mount option, and what it needs, as they are.
    :raises ConfigError: somebody changed just what als had set.
    """
    if current is None or digest(current) == record.original:
        return Undone(record, current, current)
    edits = [edit for edit in record.edits if not (keep_metacopy and _carries_metacopy(edit))]
    if len(edits) == len(record.edits) and record.exact and digest(current) == record.written:
        if record.original is None:
            return Undone(record, current, None)
        if digest(saved) == record.original:
            return Undone(record, current, saved)
    return Undone(record, current, revert(current, edits, str(record.path)))


def _carries_metacopy(edit: Edit) -> bool:
    # Without a driver, the table that the mount options are in is not read.
    return edit.kind is Kind.OPTION or edit.keys == ("storage", "driver")


def loses_metacopy(record: Record) -> bool:
    """Whether undoing takes metacopy=on away that was not there before."""
    return any(edit.kind is Kind.OPTION and METACOPY not in (edit.old or "").split(",") for edit in record.edits)


def read_journal(path: Path) -> dict[Path, Record]:
    """What is recorded; empty where nothing is.

    :raises StoreDamaged: it is not what als writes.
    """
    try:
        value = read_json(path)
    except FileNotFoundError:
        return {}
    try:
        records = [Record.of_json(entry) for entry in value["files"]]
    except (KeyError, TypeError, ValueError) as error:
        hint = "take als's lines out of storage.conf and registries.conf by hand (backups are beside them), then remove it"
        raise StoreDamaged(f"not what `als setup` writes: {error}", where=str(path), hint=hint) from error
    return {record.path: record for record in records}


def write_journal(path: Path, records: Iterable[Record]) -> None:
    """Replace what is recorded; without records the file goes."""
    entries = [record.as_json() for record in records]
    if entries:
        write_json(path, {"files": entries})
    else:
        path.unlink(missing_ok=True)
