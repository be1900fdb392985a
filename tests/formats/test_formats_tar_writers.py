"""Archives that other programs write, read by ours."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from als.model.entry import Entry, EntryType
from tests.formats.streams import logical
from tests.formats.tarblocks import only, read

# -- what Python's tarfile writes

names = st.lists(st.text(st.sampled_from("abé日 .-"), min_size=1, max_size=60), min_size=1, max_size=4).map("/".join)
long_names = st.one_of(
    names, st.integers(101, 400).map(lambda length: "d/" * 60 + "n" * (length - 120 if length > 130 else 10))
)
texts = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF), max_size=40)


@st.composite
def members(draw: st.DrawFn, form: int) -> tuple[tarfile.TarInfo, bytes]:
    """A member that the format can hold, with its content."""
    big = form != tarfile.USTAR_FORMAT
    member = tarfile.TarInfo(draw(long_names if big else names.filter(lambda name: len(name.encode()) < 90)))
    member.type = draw(st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE,
                                        tarfile.CHRTYPE, tarfile.BLKTYPE]))  # fmt: skip
    member.mode = draw(st.integers(0, 0o7777))
    member.uid = draw(st.integers(0, 0xFFFFFFFF if big else 0o7777777))
    member.gid = draw(st.integers(0, 0xFFFFFFFF if big else 0o7777777))
    member.mtime = draw(st.integers(-(1 << 33) if big else 0, (1 << 33) - 1 if not big else 1 << 36))
    if member.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        member.linkname = draw(long_names if big else st.just("target"))
    if member.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        member.devmajor, member.devminor = draw(st.integers(0, 0o777)), draw(st.integers(0, 0o7777777))
    if form == tarfile.PAX_FORMAT:
        records = draw(st.dictionaries(st.sampled_from(["user.a", "user.b", "trusted.c"]).map("SCHILY.xattr.{}".format), texts))
        if draw(st.booleans()):
            records["mtime"] = f"{member.mtime}.{draw(st.integers(0, 999_999_999)):09}"
        member.pax_headers = records
    content = draw(st.binary(max_size=2000)) if member.type == tarfile.REGTYPE else b""
    member.size = len(content)
    return member, content


@st.composite
def archives(draw: st.DrawFn) -> tuple[bytes, list[tuple[tarfile.TarInfo, bytes]]]:
    form = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    chosen = draw(st.lists(members(form), max_size=6))
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for member, content in chosen:
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue(), chosen


def expected(member: tarfile.TarInfo, content: bytes) -> Entry:
    kinds = {
        tarfile.REGTYPE: EntryType.FILE, tarfile.DIRTYPE: EntryType.DIR, tarfile.SYMTYPE: EntryType.SYMLINK,
        tarfile.LNKTYPE: EntryType.HARDLINK, tarfile.FIFOTYPE: EntryType.FIFO, tarfile.CHRTYPE: EntryType.CHAR,
        tarfile.BLKTYPE: EntryType.BLOCK,
    }  # fmt: skip
    seconds, nanoseconds = int(member.mtime), 0
    if "mtime" in member.pax_headers:
        whole, _, decimals = member.pax_headers["mtime"].partition(".")
        total = abs(int(whole)) * 10**9 + int(decimals)
        seconds, nanoseconds = divmod(-total if whole.startswith("-") else total, 10**9)
    return Entry(
        member.name.encode() + (b"/" if member.isdir() else b""),
        kinds[member.type],
        member.mode,
        member.uid,
        member.gid,
        seconds,
        nanoseconds,
        len(content),
        len(content),
        member.linkname.encode(),
        (member.devmajor, member.devminor),
        tuple(sorted(
            (key.removeprefix("SCHILY.xattr.").encode(), value.encode())
            for key, value in member.pax_headers.items()
            if key.startswith("SCHILY.xattr.")
        )),
    )  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(archives(), st.lists(st.integers(1, 3000), min_size=1, max_size=8))
def test_archives_of_tarfile(written: tuple[bytes, list[tuple[tarfile.TarInfo, bytes]]], sizes: list[int]) -> None:
    raw, chosen = written
    layer = read(raw, tuple(sizes))
    assert layer.stream == raw
    assert [content for _, content in layer.entries] == [content for _, content in chosen]
    for (entry, _), (member, content) in zip(layer.entries, chosen, strict=True):
        found = {field: getattr(entry, field) for field in Entry._fields}
        found["xattrs"] = tuple(sorted(entry.xattrs))
        assert found == {field: getattr(expected(member, content), field) for field in Entry._fields}


# -- what GNU tar writes


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    with (folder / "runs").open("wb") as runs:
        for number in range(30):
            runs.seek(number * 65536)
            runs.write(b"%d " % number * 100)
        runs.truncate(3_000_000)
    with (folder / "late").open("wb") as late:
        late.seek(1_000_000)
        late.write(b"end")
    with (folder / "hole").open("wb") as hole:
        hole.truncate(500_000)
    (folder / ("n" * 200)).write_bytes(b"long")
    (folder / "link").symlink_to("t" * 300)
    os.utime(folder / "late", ns=(0, -1_500_000_000))
    return folder


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu", "-S"],
        ["--format=oldgnu", "-S"],
        ["--format=gnu"],
        ["--format=pax"],
        *(["--format=pax", "-S", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0")),
    ],
    ids=" ".join,
)
def test_archives_of_gnu_tar(options: list[str], sources: Path) -> None:
    raw = subprocess.run(["tar", "-C", sources, *options, "-cf", "-", "."], check=True, capture_output=True, timeout=60).stdout
    layer = read(raw)
    assert layer.stream == raw
    assert layer == read(raw, (1, 511, 513, 70_001))
    found = {entry.path.decode(): (entry, stored) for entry, stored in layer.entries}
    for path in sources.iterdir():
        entry, stored = found[f"./{path.name}"]
        if path.is_symlink():
            assert entry.linkname == os.fsencode(path.readlink())
            continue
        assert logical(entry, stored) == path.read_bytes(), path.name
        assert entry.size == path.stat().st_size
        nanoseconds = path.stat().st_mtime_ns
        assert entry.mtime * 10**9 + entry.mtime_ns == (nanoseconds if "pax" in options[0] else nanoseconds // 10**9 * 10**9)
        if "-S" in options and path.name == "runs":
            assert entry.extents is not None
            assert len(entry.extents) == 30
            assert entry.stored < entry.size


def test_xattrs_of_gnu_tar(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"")
    xattrs = {b"user.bin": b"\0\1\xff=\n", b"user.empty": b"", b"user.text": b"value"}
    for name, value in xattrs.items():
        os.setxattr(path, name, value)
    raw = subprocess.run(
        ["tar", "-C", tmp_path, "--xattrs", "-cf", "-", "f"], check=True, capture_output=True, timeout=60
    ).stdout
    entry, _ = only(raw)
    assert dict(entry.xattrs) == xattrs
