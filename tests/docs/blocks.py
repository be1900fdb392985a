"""The commands in documents: fenced blocks marked ``sh``, and how they are run.

A block that cannot run in a test says so where everybody sees it, in the line that opens it: ```` ```sh skip: REASON ````.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SKIP = re.compile(r"skip: (.+)")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    document: Path
    line: int
    language: str
    reason: str
    """Why it is not run; "" where it is."""
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks_of(document: Path) -> list[Block]:
    """All blocks of a document, in its order.

    :raises ValueError: the line that opens one says something that nobody reads.
    """
    text = document.read_text("utf-8")
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        note = match[3].strip()
        skip = _SKIP.fullmatch(note)
        if note and skip is None:
            raise ValueError(f"{document.name}:{line}: {note!r} is no reason to skip")
        found.append(Block(document, line, match[2], skip[1] if skip else "", textwrap.dedent(match[4])))
    return found


def with_values(text: str, values: Mapping[str, str]) -> str:
    """The text with what a test has in place of what stands in documents; longer words go first."""
    words = sorted(values, key=len, reverse=True)
    return re.sub("|".join(rf"(?<![\w-]){re.escape(word)}(?![\w-])" for word in words), lambda match: values[match[0]], text)
