"""What an image's command leads to: by rules that made images show, and beside what this machine's own loader does."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from als.errors import BadImage
from als.formats.discovery import find_indexed, indexed_format_of
from als.lazy.command import Command, command_of
from als.lazy.elf import Span
from als.lazy.prefetch import EntryFiles, Wish, promised_units
from als.lazy.processor import hwcaps_levels
from als.lazy.runtimes import runtime_files
from als.model.merged import Found
from als.model.tree import Inode
from tests.formats.lazylayers import layers_of
from tests.lazy.elves import FolderImage, MadeImage, closure, command, elf, ld_cache, made, whole

LD = b"/lib64/ld.so"
LIB = elf()


def program(*needed: bytes, **more: Any) -> bytes:
    return elf(needed, LD, **more)


BASE: Mapping[str, bytes | str] = {"lib64/ld.so": LIB, "usr/lib/libc.so": elf(soname=b"libc.so"), "lib": "usr/lib"}

CASES: Mapping[str, tuple[list[Mapping[str, bytes | str]], Command, list[str]]] = {
    "libraries of libraries, each once": (
        [
            {
                **BASE,
                "bin/x": program(b"liba.so", b"libc.so"),
                "usr/lib/liba.so": elf([b"libc.so", b"libb.so"]),
                "lib64/libb.so": LIB,
            }
        ],
        command("x"),
        ["bin/x", "lib64/ld.so", "usr/lib/liba.so", "usr/lib/libc.so", "lib64/libb.so"],
    ),
    "symlinks across layers, and out of the image": (
        [
            {**BASE, "opt/real": program(b"libs.so"), "usr/lib/libs.so.1.2": LIB},
            {
                "usr/bin/x": "/../../etc/alternatives/x",
                "etc/alternatives/x": "../../opt/real",
                "usr/lib/libs.so": "libs.so.1.2",
            },
        ],
        command("x"),
        ["opt/real", "lib64/ld.so", "usr/lib/libs.so.1.2"],
    ),
    "origin is where the file really is": (
        [
            {
                **BASE,
                "opt/p/bin/x": program(b"libp.so", runpath=b"$ORIGIN/../lib"),
                "opt/p/lib/libp.so": LIB,
                "bin/x": "/opt/p/bin/x",
            }
        ],
        command("x"),
        ["opt/p/bin/x", "lib64/ld.so", "opt/p/lib/libp.so"],
    ),
    "rpath is inherited, runpath is not": (
        [
            {
                **BASE,
                "bin/x": program(b"liba.so", rpath=b"/r:/s"),
                "r/liba.so": elf([b"libb.so", b"libd.so"]),
                "s/libb.so": elf([b"libe.so"], runpath=b"/t"),
                "s/libe.so": LIB,
                "usr/lib/libe.so": LIB,
                "s/libd.so": LIB,
            }
        ],
        command("x"),
        ["bin/x", "lib64/ld.so", "r/liba.so", "s/libb.so", "s/libd.so", "usr/lib/libe.so"],
    ),
    "runpath switches rpath off": (
        [{**BASE, "bin/x": program(b"liba.so", rpath=b"/r", runpath=b""), "r/liba.so": LIB}],
        command("x"),
        ["bin/x", "lib64/ld.so"],
    ),
    "the environment goes before runpath": (
        [{**BASE, "bin/x": program(b"liba.so", runpath=b"/r"), "r/liba.so": LIB, "w/here/liba.so": LIB, "pre.so": LIB}],
        command("x", library_path=b"/none:here", folder=b"/w", preload=[b"/pre.so"]),
        ["bin/x", "lib64/ld.so", "pre.so", "w/here/liba.so"],
    ),
    "another machine's library is passed over": (
        [{**BASE, "bin/x": program(b"liba.so", runpath=b"/r:/s"), "r/liba.so": elf(machine=183), "s/liba.so": LIB}],
        command("x"),
        ["bin/x", "lib64/ld.so", "r/liba.so", "s/liba.so"],
    ),
    "what is no library at all, too": (
        [{**BASE, "bin/x": program(b"liba.so", runpath=b"/r:/s"), "r/liba.so": b"INPUT(a)" * 99, "s/liba.so": LIB}],
        command("x"),
        ["bin/x", "lib64/ld.so", "r/liba.so", "s/liba.so"],
    ),
    "the cache goes before the default folders": (
        [
            {
                **BASE,
                "bin/x": program(b"liba.so", b"libb.so"),
                "opt/liba.so": LIB,
                "usr/lib/liba.so": LIB,
                "usr/lib/libb.so": LIB,
                "etc/ld.so.cache": ld_cache([(b"liba.so", b"/opt/liba.so"), (b"libb.so", b"/gone/libb.so")]),
            }
        ],
        command("x"),
        ["etc/ld.so.cache", "bin/x", "lib64/ld.so", "opt/liba.so", "usr/lib/libb.so"],
    ),
    "a broken cache is none": (
        [{**BASE, "bin/x": program(b"liba.so"), "usr/lib/liba.so": LIB, "etc/ld.so.cache": b"?" * 99}],
        command("x"),
        ["etc/ld.so.cache", "bin/x", "lib64/ld.so", "usr/lib/liba.so"],
    ),
    "no default folders": (
        [{**BASE, "bin/x": elf([b"libc.so"], LD, flags_1=0x800)}],
        command("x"),
        ["bin/x", "lib64/ld.so"],
    ),
    "multiarch": (
        [{**BASE, "bin/x": program(b"liba.so"), "usr/lib/x86_64-linux-gnu/liba.so": LIB, "usr/lib/liba.so": LIB}],
        command("x"),
        ["bin/x", "lib64/ld.so", "usr/lib/x86_64-linux-gnu/liba.so"],
    ),
    "$LIB is what the distribution has made of it": (
        [{**BASE, "bin/x": program(b"liba.so", runpath=b"/opt/${LIB}/$PLATFORM"), "opt/lib64/x86_64/liba.so": LIB}],
        command("x"),
        ["bin/x", "lib64/ld.so", "opt/lib64/x86_64/liba.so"],
    ),
    "musl": (
        [
            {
                "lib/ld-musl-x86_64.so.1": LIB,
                "etc/ld-musl-x86_64.path": b"/m\n/n\n",
                "bin/busybox": elf([b"libc.musl-x86_64.so.1", b"libm.so", b"libz.so"], b"/lib/ld-musl-x86_64.so.1"),
                "bin/sh": "/bin/busybox",
                "n/libz.so": elf([b"liba.so"], runpath=b"$ORIGIN/own"),
                "n/own/liba.so": LIB,
                "lib/libz.so": LIB,
            }
        ],
        command("/bin/sh"),
        ["etc/ld-musl-x86_64.path", "bin/busybox", "lib/ld-musl-x86_64.so.1", "n/libz.so", "n/own/liba.so"],
    ),
    "musl without a path file": (
        [
            {
                "lib/ld-musl-x86_64.so.1": LIB,
                "bin/x": elf([b"liba.so"], b"/lib/ld-musl-x86_64.so.1"),
                "usr/local/lib/liba.so": LIB,
                "usr/lib/liba.so": LIB,
            }
        ],
        command("x"),
        ["bin/x", "lib/ld-musl-x86_64.so.1", "usr/local/lib/liba.so"],
    ),
    "a static program": ([{**BASE, "bin/x": elf()}], command("x"), ["bin/x"]),
    "scripts of scripts, env, and the program that an entrypoint starts": (
        [
            {
                **BASE,
                "entry": b"#! /bin/one  -x\nexec $@\n",
                "bin/one": b"#!/usr/bin/env -S FOO=bar python3 -u\n",
                "usr/bin/env": elf([b"libc.so"], LD),
                "usr/bin/python3": "python3.99",
                "usr/bin/python3.99": program(),
                "srv/app.py": b"print()",
                "usr/bin/gunicorn": b"#!/usr/bin/python3\n",
            }
        ],
        command("/entry", "sh", "-c", "exec gunicorn -w 4 app.py", folder=b"/srv"),
        [
            "entry",
            "bin/one",
            "usr/bin/env",
            "usr/bin/python3.99",
            "usr/bin/gunicorn",
            "srv/app.py",
            "lib64/ld.so",
            "usr/lib/libc.so",
        ],
    ),
    "scripts in a circle": ([{"a": b"#!/b\n", "b": b"#!/a\n"}], command("/a"), ["a", "b"]),
    "libraries in a circle": (
        [{**BASE, "bin/x": program(b"liba.so"), "lib64/liba.so": elf([b"libb.so"]), "lib64/libb.so": elf([b"liba.so"])}],
        command("x"),
        ["bin/x", "lib64/ld.so", "lib64/liba.so", "lib64/libb.so"],
    ),
    "nothing to start": ([BASE], command("x"), []),
    "no command": ([BASE], command(), []),
}


@pytest.mark.parametrize("name", CASES)
def test_made_images(name: str) -> None:
    layers, what, expected = CASES[name]
    found = closure(made(*layers), what)
    assert sorted(found) == sorted(expected)
    # The order of use: gates first (they are asked for before what they lead to), then breadth first.
    assert [each for each in found if each.startswith("bin/")] == [each for each in expected if each.startswith("bin/")]


def test_libraries_for_better_processors() -> None:
    image = made({**BASE, "bin/x": program(b"liba.so"), "lib64/liba.so": LIB, "lib64/glibc-hwcaps/x86-64-v3/liba.so": LIB})
    assert closure(image, command("x"))[-1] == "lib64/liba.so"
    assert closure(image, command("x"), (b"x86-64-v3",))[-1] == "lib64/glibc-hwcaps/x86-64-v3/liba.so"


def content_of(file: Found) -> bytes:
    assert isinstance(file.node, Inode)
    assert file.node.content is not None
    return file.node.content.name


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_come_in_any_order(seed: int) -> None:
    """The same files are found in whatever order wishes are granted; all of them, and none twice."""
    numbers = random.Random(seed)
    layers, what, expected = CASES["scripts of scripts, env, and the program that an entrypoint starts"]
    image = made(*layers)
    here: list[Wish] = []

    def read(file: Found, span: Span) -> bytes | None:
        covered = (each for each in here if content_of(each.file) == content_of(file))
        if any(w.span.offset <= span.offset and span.offset + span.length <= w.span.offset + w.span.length for w in covered):
            return image.read(file, span)
        return None

    entry = EntryFiles(image.lookup, read, what)
    granted: list[Wish] = []
    pending = entry.advance()
    assert whole(pending), "the program itself is known at once"
    while pending:
        granted.append(pending.pop(numbers.randrange(len(pending))))
        here.append(granted[-1])
        pending += entry.advance()
    assert entry.finished
    assert sorted(whole(granted)) == sorted(expected)
    keys = [(wish.file.path, wish.span) for wish in granted]
    assert len(keys) == len(set(keys))


def rounds(image: MadeImage, what: Command) -> int:
    """Round trips until all is known, where everything that is asked for comes in one."""
    here: set[tuple[bytes, Span]] = set()

    def read(file: Found, span: Span) -> bytes | None:
        return image.read(file, span) if (content_of(file), span) in here else None

    entry = EntryFiles(image.lookup, read, what)
    for count in range(100):
        wishes = entry.advance()
        if entry.finished:
            return count
        assert wishes, "it waits, but for nothing"
        here |= {(content_of(wish.file), wish.span) for wish in wishes}
    raise AssertionError("no end")


def test_a_wide_closure_costs_no_more_round_trips_than_a_narrow_one() -> None:
    names = [b"lib%d.so" % number for number in range(40)]
    libraries = {f"lib64/{name.decode()}": elf([b"libc.so"]) for name in names}
    wide = made({**BASE, **libraries, "bin/x": program(*names)})
    narrow = made({**BASE, **libraries, "bin/x": program(names[0])})
    assert rounds(wide, command("x")) == rounds(narrow, command("x")) <= 10


def test_a_hostile_image_is_left_alone() -> None:
    """Libraries that each need hundreds more, all of which are there; and one that makes us look in vain."""
    names = [b"l%d.so" % number for number in range(2000)]
    libraries = {f"lib64/{name.decode()}": elf(names[at : at + 250]) for at, name in enumerate(names)}
    found = closure(made({**BASE, **libraries, "bin/x": program(*names[:250])}), command("x"))
    assert 500 < len(found) < 520
    nowhere = b":".join(b"/d%d" % number for number in range(500))
    lookups = []
    image = made({**BASE, "bin/x": elf([b"n%d.so" % number for number in range(250)], LD, runpath=nowhere)})
    entry = EntryFiles(lambda path: lookups.append(path) or image.lookup(path), image.read, command("x"))
    assert sorted(whole(entry.advance())) == ["bin/x", "lib64/ld.so"]
    assert entry.finished
    assert len(lookups) <= 20_000


def test_what_leads_on_goes_first() -> None:
    image = made({**BASE, "bin/x": program(padding=9000) + bytes(100_000), "etc/ld.so.cache": ld_cache([])})
    wishes = EntryFiles(image.lookup, lambda file, span: None, command("x")).advance()
    assert [(wish.file.path, wish.span.length, wish.gate) for wish in wishes] == [
        (b"etc/ld.so.cache", 48, True),
        (b"bin/x", 4096, True),
        (b"bin/x", len(program(padding=9000)) + 100_000, False),
    ]
    script = made({"bin/x": b"#!/bin/y\n"})
    assert [wish.gate for wish in EntryFiles(script.lookup, lambda file, span: None, command("x")).advance()] == [True]


def test_inline_bytes_are_not_asked_for() -> None:
    image = made({**BASE, "bin/x": b"#!/bin/y\n", "bin/y": elf()})
    node = image.trees[0].find(b"bin/x")
    assert isinstance(node, Inode)
    folder = image.trees[0].find(b"bin")
    folder.entries[b"x"] = Inode(node.type, node.mode, size=node.size, content=node.content, data=b"#!/bin/y\n")
    assert closure(image, command("x")) == ["bin/y"]


# -- beside this machine's loader


def ldd(path: str) -> set[Path]:
    """The files that ldd(1) names, and the program; none for what is not dynamic."""
    done = subprocess.run(["ldd", path], capture_output=True, text=True, timeout=30, check=False)
    found = re.findall(r"(?:=> |^\s*)(/\S+) \(0x", done.stdout, re.MULTILINE)
    return {Path(each).resolve() for each in (*found, path)} if found else set()


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


PROGRAMS = ("sh", "bash", "cat", "git", "perl", "python3", "openssl", "mount", "podman", "gpgv", "curl", "xz", "tar", "find")


@pytest.mark.parametrize("name", PROGRAMS)
def test_ldd_agrees(name: str) -> None:
    path = shutil.which(name, path="/usr/bin:/bin:/usr/sbin")
    if path is None or not is_elf(Path(path)):
        path = "/bin/ls"
    root = FolderImage(Path("/"))
    found = {Path("/", each) for each in closure(root, command(path)) if each != "etc/ld.so.cache"}
    # What no loader reads.
    program = bytes(Path(path).resolve().relative_to("/"))
    beside = {name for each in runtime_files(program, b"") for name in each.names}
    found -= {Path("/", name.decode()).resolve() for name in beside}
    # ldd starts from the name it is given, a container from the file: $ORIGIN differs behind a symlink.
    assert found == ldd(str(Path(path).resolve()))


def test_what_a_process_has_mapped_was_foreseen() -> None:
    """The kernel's own account of a running program: every file that is mapped for execution."""
    program = shutil.which("python3", path="/usr/bin:/bin") or str(Path(sys.executable).resolve())
    script = "print(open('/proc/self/maps').read())"
    shown = subprocess.run([program, "-S", "-E", "-c", script], capture_output=True, text=True, timeout=30, check=True).stdout
    mapped = {line.split()[5] for line in shown.splitlines() if len(line.split()) > 5 and "x" in line.split()[1]}
    found = {f"/{each}" for each in closure(FolderImage(Path("/")), command(program))}
    assert {path for path in mapped if path.startswith("/")} <= found


def test_the_processor_s_levels_are_those_of_its_loader() -> None:
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    found = hwcaps_levels(Path("/proc/cpuinfo").read_text("utf-8"))
    if loader.exists():
        shown = subprocess.run([loader, "--help"], capture_output=True, text=True, timeout=30, check=True).stdout
        assert list(found) == [name.encode() for name in re.findall(r"(x86-64-v\d) \(supported", shown)]
    assert hwcaps_levels("") == ()
    old = "flags\t\t: cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 avx2"
    assert hwcaps_levels(old) == (b"x86-64-v2",)


# -- the image's own word


def test_the_command_of_a_configuration() -> None:
    config = (
        b'{"config": {"Entrypoint": ["/e"], "Cmd": ["a", "b"], "WorkingDir": "/w/", "Env": '
        b'["PATH=/x:", "LD_LIBRARY_PATH=/l", "LD_PRELOAD=a.so:/b.so c.so", "EMPTY"]}}'
    )
    expected = Command((b"/e", b"a", b"b"), (b"/x", b"."), b"/w", b"/l", (b"a.so", b"/b.so", b"c.so"))
    assert command_of(config) == expected
    bare = command_of(b'{"config": null}')
    assert bare.arguments == ()
    assert bare.folder == b"/"
    assert b"/usr/bin" in bare.path
    for wrong in (b'{"config": {"Cmd": "sh"}}', b'{"config": []}', b"[]"):
        with pytest.raises(BadImage):
            command_of(wrong)


@pytest.mark.parametrize(("layout", "some"), [("estargz-prioritized-tiny", True), ("estargz-tiny", False)])
def test_what_the_builder_promised(fixtures_dir: Path, layout: str, some: bool) -> None:
    for layer in layers_of(fixtures_dir / layout):
        found = indexed_format_of(find_indexed(), layer.descriptor.media_type, layer.descriptor.annotations)
        assert found is not None
        index = layer.index(found)
        units = promised_units(index)
        assert bool(units) == some
        assert all((index.unit(number).offset < index.prefetch.end) == (number in units) for number in range(index.units))
