"""How the verbs print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

import click


def bytes_text(count: int) -> str:
    """A number of bytes in the largest decimal unit that leaves at least one digit before the point."""
    if count < 1000:
        return f"{count} B"
    units = ("kB", "MB", "GB", "TB")
    power = min(len(units), (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.1f} {units[power - 1]}"


def time_text(seconds: float) -> str:
    """A time in the reader's own zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def print_json(value: object) -> None:
    """One JSON document."""
    click.echo(json.dumps(value, indent=2, sort_keys=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be; nothing but the header where there are no rows."""
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    for line in (header, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_facts(facts: Mapping[str, object]) -> None:
    """Names and values, one a line; lists one item a line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        lines = [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
        for index, line in enumerate(lines or ["-"]):
            click.echo(f"{name if index == 0 else '':<{width}}  {line}")
