"""Single changes of a TOML file, doing them and taking them back; on a document of tomlkit as on plain dictionaries.

Doing each change twice, on the text's document and on the plain values, is what lets the result be checked: the new text
must parse to the changed values, else it is not used.
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Array

from als.errors import ConfigError

METACOPY = "metacopy=on"
VERITY = "verity=require"


class Kind(enum.StrEnum):
    """What an edit changes."""

    VALUE = "value"
    """A string under a key: `old` (None: no such key) becomes `new`."""
    OPTION = "option"
    """As VALUE, for a list of mount options in one string, of which those that are new are ours and the rest is not."""
    ITEM = "item"
    """An array of strings: `old` (None: nothing) is replaced by `new` (None: removed)."""
    FLAG = "flag"
    """As VALUE, for a boolean: "true" or "false"."""
    LIST = "list"
    """An empty array where there is no such key."""
    MIRROR = "mirror"
    """The ``[[registry]]`` whose prefix is the key: `new` goes first among its mirrors, in place of `old` if that is there."""
    REGISTRY = "registry"
    """A ``[[registry]]`` for the prefix that is the key, with the one mirror `new`."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One change."""

    kind: Kind
    keys: tuple[str, ...]
    """The way to the value through the tables; for MIRROR and REGISTRY the prefix alone."""
    old: str | None
    new: str | None

    def as_json(self) -> dict[str, object]:
        """For the journal and for programs."""
        return {"kind": self.kind.value, "keys": list(self.keys), "old": self.old, "new": self.new}

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Edit:
        """What :meth:`as_json` gave.

        :raises KeyError, ValueError, TypeError: it is something else.
        """
        old, new = (None if value[name] is None else str(value[name]) for name in ("old", "new"))
        return cls(Kind(value["kind"]), tuple(str(key) for key in value["keys"]), old, new)


Tables = MutableMapping[str, Any]
_Change = Callable[[Tables, bool], None]


def parse(data: bytes, where: str) -> dict[str, Any]:
    """The values of a TOML file.

    :raises ConfigError: it is no TOML.
    """
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}", where=where, hint="correct the file; nothing was changed") from error


def perform(data: bytes, edits: Sequence[Edit], where: str) -> bytes:
    """The text with the changes made, everything else as it was.

    :raises ConfigError: it is no TOML, or written in a way in which a change cannot be made safely.
    """
    return edited(data, [_performing(edit) for edit in edits], where)


def revert(data: bytes, edits: Sequence[Edit], where: str) -> bytes:
    """The text with the changes taken back, the last one first. What is ours no longer is left alone.

    :raises ConfigError: as :func:`perform`, or a value that we set was set to something else since.
    """
    return edited(data, [_reverting(edit, where) for edit in reversed(edits)], where)


def edited(data: bytes, changes: Sequence[_Change], where: str) -> bytes:
    """Make changes in a text, and check that the new text means what it should.

    :param changes: each is called with the tables and whether these are tomlkit's.
    :raises ConfigError: the text cannot be parsed, or cannot be changed without changing more.
    """
    expected = parse(data, where)
    for change in changes:
        change(expected, False)
    text = data.decode("utf-8")
    # Without a line end tomlkit would write on behind the last value.
    whole = text if text.endswith("\n") or not text else text + "\n"
    try:
        document = tomlkit.parse(whole)
        for change in changes:
            change(document, True)
        result = tomlkit.dumps(document)
        if result == whole:
            return data
        if "\r\n" in text:
            result = result.replace("\r\n", "\n").replace("\n", "\r\n")
        if tomllib.loads(result) == expected:
            return result.encode("utf-8")
    except (TOMLKitError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        # tomlkit knows no way, for example, to put a table into an inline table that is spread over dotted keys.
        raise _cannot_edit(where) from error
    raise _cannot_edit(where)


def _cannot_edit(where: str) -> ConfigError:
    hint = "write its tables and arrays of tables with [headers], then try again"
    return ConfigError("is written in a way that cannot be edited safely", where=where, hint=hint)


def registry_of(tables: Mapping[str, Any], prefix: str) -> Any | None:
    """The first ``[[registry]]`` with that prefix, as podman reads it."""
    return next((block for block in tables.get("registry", []) if prefix_of(block) == prefix), None)


def prefix_of(block: Mapping[str, Any]) -> str:
    """A ``[[registry]]`` block's prefix; its location where it names none."""
    return str(block.get("prefix") or block.get("location") or "").rstrip("/")


def _performing(edit: Edit) -> _Change:
    def change(tables: Tables, kit: bool) -> None:
        match edit.kind:
            case Kind.VALUE | Kind.OPTION | Kind.FLAG:
                _table(tables, edit.keys[:-1], kit)[edit.keys[-1]] = _scalar(edit, edit.new)
            case Kind.LIST:
                _table(tables, edit.keys[:-1], kit)[edit.keys[-1]] = tomlkit.array() if kit else []
            case Kind.ITEM:
                _replace_item(_table(tables, edit.keys[:-1], kit)[edit.keys[-1]], edit.old, edit.new)
            case Kind.MIRROR:
                block = registry_of(tables, edit.keys[0])
                if block is not None and edit.new is not None:
                    _put_mirror(block, edit.old, edit.new, kit)
            case Kind.REGISTRY:
                if "registry" not in tables:
                    tables["registry"] = tomlkit.aot() if kit else []
                tables["registry"].append(_registry(edit, kit))

    return change


def _reverting(edit: Edit, where: str) -> _Change:
    def change(tables: Tables, kit: bool) -> None:
        match edit.kind:
            case Kind.VALUE | Kind.OPTION | Kind.FLAG:
                _unset(_existing(tables, edit.keys[:-1]), edit, where)
            case Kind.LIST:
                table = _existing(tables, edit.keys[:-1])
                if table is not None and table.get(edit.keys[-1]) == []:
                    del table[edit.keys[-1]]
            case Kind.ITEM:
                table = _existing(tables, edit.keys[:-1])
                if table is not None and edit.keys[-1] in table and (edit.new is None or edit.new in table[edit.keys[-1]]):
                    _replace_item(table[edit.keys[-1]], edit.new, edit.old)
            case Kind.MIRROR | Kind.REGISTRY:
                _take_mirror(tables, edit)

    return change


def _table(tables: Tables, keys: Sequence[str], kit: bool) -> Tables:
    for key in keys:
        if key not in tables:
            tables[key] = tomlkit.table() if kit else {}
        tables = tables[key]
    return tables


def _existing(tables: Tables, keys: Sequence[str]) -> Tables | None:
    for key in keys:
        if key not in tables:
            return None
        tables = tables[key]
    return tables


def _unset(table: Tables | None, edit: Edit, where: str) -> None:
    key = edit.keys[-1]
    if table is None or key not in table or table[key] == _scalar(edit, edit.old):
        return
    if table[key] == _scalar(edit, edit.new):
        _set(table, key, _scalar(edit, edit.old))
    elif edit.kind is Kind.OPTION:
        ours = set(_options(edit.new)) - set(_options(edit.old))
        options = [option for option in str(table[key]).split(",") if option.strip() not in ours]
        _set(table, key, ",".join(options) or None)
    else:
        hint = f"`als setup` had set it to {edit.new!r}; before that it was {edit.old or 'not there'}: decide, and set it"
        raise ConfigError(f"{'.'.join(edit.keys)} was changed to {table[key]!r} since", where=where, hint=hint)


def _options(text: str | None) -> list[str]:
    return [option.strip() for option in (text or "").split(",")]


def _scalar(edit: Edit, text: str | None) -> str | bool | None:
    return text == "true" if edit.kind is Kind.FLAG and text is not None else text


def _set(table: Tables, key: str, value: str | bool | None) -> None:
    if value is None:
        del table[key]
    else:
        table[key] = value


def _replace_item(items: MutableSequence[Any], old: str | None, new: str | None) -> None:
    if new is not None and new in items:
        new = None
    if old is not None and old in items:
        index = items.index(old)
        if new is not None:
            items[index] = new
        else:
            del items[index]
    elif new is not None:
        items.append(new)


def _registry(edit: Edit, kit: bool) -> Any:
    block: Tables = tomlkit.table() if kit else {}
    block["prefix"] = edit.keys[0]
    block["location"] = edit.keys[0]
    _put_mirror(block, None, str(edit.new), kit)
    return block


def _put_mirror(block: Tables, old: str | None, new: str, kit: bool) -> None:
    if "mirror" not in block:
        block["mirror"] = tomlkit.aot() if kit else []
    mirrors = block["mirror"]
    for mirror in mirrors:
        if old is not None and mirror.get("location") == old:
            mirror["location"] = new
            return
    entry: Tables = {}
    if kit:
        entry = tomlkit.inline_table() if isinstance(mirrors, Array) else tomlkit.table()
    entry["location"] = new
    entry["insecure"] = True
    mirrors.insert(0, entry)


def _take_mirror(tables: Tables, edit: Edit) -> None:
    block = registry_of(tables, edit.keys[0])
    if block is None:
        return
    mirrors = block.get("mirror", [])
    at = next((index for index, mirror in enumerate(mirrors) if mirror.get("location") == edit.new), None)
    if at is not None:
        if edit.old is not None:
            mirrors[at]["location"] = edit.old
            return
        del mirrors[at]
        if not mirrors:
            del block["mirror"]
    if edit.kind is Kind.REGISTRY and set(block) == {"prefix", "location"} and block["location"] == edit.keys[0]:
        # Found by its prefix and not by `is`: tomlkit hands out a new object at each look.
        place = next(index for index, other in enumerate(tables["registry"]) if prefix_of(other) == edit.keys[0])
        del tables["registry"][place]
        if not tables["registry"]:
            del tables["registry"]
