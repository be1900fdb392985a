"""Scripts' first lines, as the kernel and env(1) read them, and words of shell commands."""

from __future__ import annotations

_LINE_MAX = 256
"""BINPRM_BUF_SIZE: the kernel sees no more of a script."""
_WORDS_MAX = 1 << 12
"""Bytes of an argument that are looked at."""
_TAKES_ARGUMENT = (b"-u", b"--unset", b"-C", b"--chdir")


def interpreter_line(head: bytes) -> tuple[bytes, bytes]:
    """The interpreter and its argument (all that follows, as one) of a script that begins with `head`; both may be empty.

    As fs/binfmt_script.c: a line whose end the kernel does not see is refused if it may have cut the interpreter's name.
    """
    line, end, _ = head[2:_LINE_MAX].partition(b"\n")
    words = line.partition(b"\0")[0].strip(b" \t").split(None, 1)
    if not words or (not end and len(head) >= _LINE_MAX and len(words) == 1):
        return b"", b""
    return words[0], words[1].rstrip(b" \t\r") if len(words) > 1 else b""


def indirect_program(interpreter: bytes, argument: bytes) -> bytes:
    """The program that ``#!/usr/bin/env ...`` starts, a name to be looked for in PATH; empty: none, or it is not env."""
    if interpreter.rpartition(b"/")[2] != b"env":
        return b""
    words = argument.split()
    if not argument.startswith((b"-S", b"-vS", b"--split-string")) and len(words) > 1:
        # The kernel hands over one argument: env looks for a program with spaces in its name.
        return b"" if b"=" not in words[0] else argument.partition(b" ")[2].strip()
    skip = False
    for word in words:
        word = word.removeprefix(b"--split-string=").removeprefix(b"-S").removeprefix(b"-vS")
        if skip or not word or word.startswith(b"-") or b"=" in word:
            skip = word in _TAKES_ARGUMENT
            continue
        return word
    return b""


def words_of(argument: bytes) -> list[bytes]:
    """An argument as the words that it may be to a shell; only names of files are looked for among them."""
    text = argument[:_WORDS_MAX]
    for mark in b"\"'();&|<>`$={}":
        text = text.replace(bytes([mark]), b" ")
    return text.split()
