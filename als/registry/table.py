"""Typed access to the tables of a configuration file, TOML or JSON."""

from __future__ import annotations

from typing import NoReturn

from als.errors import ConfigError


class Table:
    """A table; every accessor raises :class:`als.errors.ConfigError` naming file and key where the type is wrong.

    No error quotes a value: some of these files hold secrets.
    """

    def __init__(self, values: object, where: str, name: str = "the document") -> None:
        if not isinstance(values, dict):
            raise ConfigError(f"{name} is not a table", where=where)
        self.values: dict[str, object] = values
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def text(self, key: str) -> str:
        """A string; empty where it is absent."""
        value = self.values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self._fail(key, "is not a string")
        return value

    def flag(self, key: str) -> bool:
        """A boolean; false where it is absent."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            self._fail(key, "is not true or false")
        return value

    def table(self, key: str) -> Table:
        """A table; empty where it is absent."""
        value = self.values.get(key)
        return Table({} if value is None else value, self.where, repr(key))

    def tables(self, key: str) -> list[Table]:
        """An array of tables; empty where it is absent."""
        return [Table(item, self.where, f"an item of {key!r}") for item in self._array(key)]

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings; empty where it is absent."""
        result = tuple(item for item in self._array(key) if isinstance(item, str))
        if len(result) != len(self._array(key)):
            self._fail(key, "holds something that is not a string")
        return result

    def text_map(self) -> dict[str, str]:
        """The table itself, all values being strings."""
        return {key: self.text(key) for key in self.values}

    def _array(self, key: str) -> list[object]:
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self._fail(key, "is not an array")
        return value

    def _fail(self, key: str, what: str) -> NoReturn:
        raise ConfigError(f"{key!r} {what}", where=self.where)
