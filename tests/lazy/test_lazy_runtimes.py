"""What runtimes read while they start, beside those of this machine."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from als.lazy.command import command_of
from als.lazy.prefetch import EntryFiles
from als.lazy.runtimes import runtime_files, usual_files
from tests.lazy.elves import command, elf, made


def names(program: bytes, locale: bytes = b"") -> list[bytes]:
    """The first name of each file."""
    return [each.names[0] for each in runtime_files(program, locale)]


def test_python_reads_what_was_foreseen() -> None:
    """CPython's own account of the modules that it read from files before the program."""
    python = shutil.which("python3", path="/usr/bin:/bin")
    if python is None:
        pytest.fail("this machine's python3 is not where a system's is")
    program = Path(python).resolve()
    done = subprocess.run([program, "-E", "-s", "-v", "-c", "pass"], capture_output=True, text=True, timeout=30, check=True)
    read = set(re.findall(r"^# code object from '(.+)'$", done.stderr, re.MULTILINE))
    library = f"{program.parent.parent}/lib/{program.name}/"
    # What stands beside it is other packages', which .pth files name.
    own = {path for path in read if path.startswith(library) and "-packages/" not in path}
    assert len(own) >= 3
    foreseen = {f"/{name.decode()}" for each in runtime_files(str(program).lstrip("/").encode(), b"") for name in each.names}
    assert own <= foreseen


def test_the_locale_decides_about_character_types() -> None:
    types = b"usr/lib/locale/C.utf8/LC_CTYPE"
    for locale in (b"", b"C", b"POSIX", b"C.UTF-8"):
        assert types in names(b"usr/local/bin/python3.12", locale)
    assert types not in names(b"usr/local/bin/python3.12", b"de_DE.UTF-8")
    assert b"usr/local/lib/python3.12/encodings/__pycache__/utf_8.cpython-312.pyc" in names(b"usr/local/bin/python3.12")


def test_other_programs() -> None:
    assert names(b"usr/bin/perl") == []
    assert names(b"usr/bin/python3.11-config") == []
    assert names(b"usr/bin/python3.99999999999") == []
    old = b"usr/lib/python3.9/__pycache__/os.cpython-39.pyc"
    assert old in names(b"usr/bin/python3.9")
    assert old.replace(b"9", b"11") not in names(b"usr/bin/python3.11")


def test_a_source_is_read_where_nothing_was_compiled() -> None:
    found = {each.names for each in runtime_files(b"bin/python3.11", b"")}
    assert b"lib/python3.11/encodings/aliases.py" in {name for each in found for name in each[1:]}


def test_the_locale_of_a_configuration() -> None:
    def locale(*variables: str) -> bytes:
        return command_of(b'{"config": {"Env": [%s]}}' % ",".join(f'"{each}"' for each in variables).encode()).locale

    assert locale() == b""
    assert locale("LANG=C.UTF-8") == b"C.UTF-8"
    assert locale("LANG=a", "LC_CTYPE=b") == b"b"
    assert locale("LANG=a", "LC_CTYPE=b", "LC_ALL=c") == b"c"
    assert locale("LANG=a", "LC_ALL=") == b"a"


def test_this_machine_s_loader_and_library() -> None:
    """Those of its own shell are among what is taken for usual."""
    names = {f"/{name.decode()}" for each in usual_files(platform.machine()) for name in each.names}
    shown = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, timeout=30, check=True).stdout
    found = {Path(word).resolve() for word in shown.split() if word.startswith("/")}
    assert {path.name for path in found} >= {"libc.so.6"}
    assert found <= {Path(name).resolve() for name in names}
    assert usual_files("pdp11") == ()


def test_usual_files_come_last_and_only_with_a_program() -> None:
    usual = usual_files("x86_64")
    image = made({"bin/x": elf(), "usr/lib64/libc.so.6": elf(), "lib64/ld-linux-x86-64.so.2": elf(), "lib/libc.so.6": elf()})

    def wanted(name: str) -> list[bytes]:
        wishes = EntryFiles(image.lookup, lambda file, span: None, command(name), usual=usual).advance()
        return [wish.file.path for wish in wishes]

    assert list(dict.fromkeys(wanted("x"))) == [b"bin/x", b"lib64/ld-linux-x86-64.so.2", b"usr/lib64/libc.so.6"]
    assert wanted("missing") == []
    musl = made({"bin/x": elf(), "lib/ld-musl-x86_64.so.1": elf()})
    wishes = EntryFiles(musl.lookup, lambda file, span: None, command("x"), usual=usual).advance()
    assert [wish.file.path for wish in wishes][-1] == b"lib/ld-musl-x86_64.so.1"
