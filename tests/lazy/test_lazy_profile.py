"""Profiles: what is recorded, how runs are put together, what is wished of an image, and the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.errors import StoreDamaged
from als.lazy.elf import Span
from als.lazy.profile import Profile, Recorder, Touched, file_name, pack, unpack
from als.model.digest import Digest
from als.store.atomic import write_atomically
from tests.lazy.elves import made

RANGE = st.tuples(st.integers(0, 1 << 40), st.integers(1, 1 << 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))
FILES = st.dictionaries(
    st.binary(min_size=1, max_size=20).filter(lambda path: b"\0" not in path),
    st.tuples(st.integers(0, 9999), st.lists(RANGE, min_size=1, max_size=60)),
    max_size=8,
)


def profile(files: dict[bytes, tuple[int, list[tuple[int, int]]]]) -> Profile:
    """As recorded by one run that read this."""
    recorder = Recorder()
    recorder.read(b"first", 0, 1, 100.0)
    for path, (at, ranges) in sorted(files.items(), key=lambda item: item[1][0]):
        for start, end in ranges:
            recorder.read(path, start, end - start, 100.0 + at / 1000)
    return recorder.profile(lambda name: None if name == b"first" and name not in files else name)


def covered(touched: Touched, ranges: list[tuple[int, int]]) -> bool:
    return all(any(low <= start and end <= high for low, high in touched.ranges) for start, end in ranges)


@given(FILES)
def test_all_that_was_read_is_recorded_and_survives_the_disk(files: dict[bytes, tuple[int, list[tuple[int, int]]]]) -> None:
    recorded = profile(files)
    found = {each.path: each for each in recorded.files}
    assert set(found) == set(files)
    assert [each.at for each in recorded.files] == sorted(each.at for each in recorded.files)
    for path, (_, ranges) in files.items():
        assert covered(found[path], ranges)
        assert len(found[path].ranges) <= 32
        assert all(one[1] < other[0] for one, other in zip(found[path].ranges, found[path].ranges[1:], strict=False))
    assert unpack(pack(recorded)) == recorded


@given(FILES, FILES)
def test_runs_are_put_together(
    one: dict[bytes, tuple[int, list[tuple[int, int]]]], other: dict[bytes, tuple[int, list[tuple[int, int]]]]
) -> None:
    joined = {each.path: each for each in profile(one).joined(profile(other)).files}
    assert set(joined) == set(one) | set(other)
    for files in (one, other):
        assert all(covered(joined[path], ranges) for path, (_, ranges) in files.items())
    assert all(joined[path].missed == (path not in other) for path in joined)


def test_what_runs_read_no_more_is_forgotten() -> None:
    files = Profile((Touched(b"old", 0, ((0, 1),)), Touched(b"kept", 5, ((0, 1),))))
    run = Profile((Touched(b"kept", 1, ((4, 9),)),))
    for count in range(1, 4):
        files = files.joined(run)
        assert files.files == (Touched(b"old", 0, ((0, 1),), count), Touched(b"kept", 1, ((0, 1), (4, 9))))
    assert [each.path for each in files.joined(run).files] == [b"kept"]


def test_the_window() -> None:
    recorder = Recorder(window=2.0)
    assert not recorder.ended(1e9)
    recorder.read(b"a", 0, 0, 1.0)
    assert recorder.names == frozenset()
    recorder.read(b"a", 0, 10, 50.0)
    recorder.read(b"b", 5, 10, 51.5)
    recorder.read(b"c", 0, 10, 52.1)
    assert recorder.ended(52.1)
    assert not recorder.ended(51.9)
    assert recorder.names == {b"a", b"b"}
    assert recorder.profile({b"b": b"usr/b"}.get) == Profile((Touched(b"usr/b", 1500, ((5, 15),)),))


def test_a_recorder_does_not_grow_without_end() -> None:
    recorder = Recorder()
    for number in range(10_000):
        recorder.read(number.to_bytes(4, "big"), 0, 1, 0.0)
        recorder.read(b"same", 3 * number, 1, 0.0)
    assert len(recorder.names) == 4096
    for number in range(10_000):
        recorder.read(bytes(4), 3 * number, 1, 0.0)
    found = recorder.profile(lambda name: name)
    assert len(found.files) == 4096
    assert [each.ranges[-1][1] for each in found.files if each.path == bytes(4)] == [29_998]


def test_wishes_of_the_next_version() -> None:
    image = made({"a": b"x" * 100, "folder/b": b"y" * 10}, {"link": "/folder"})
    files = (
        Touched(b"link/b", 0, ((0, 5), (8, 50))),
        Touched(b"gone", 1, ((0, 5),)),
        Touched(b"a", 2, ((200, 300),)),
        Touched(b"folder", 2, ((0, 3),)),
        Touched(b"a", 3, ((50, 60),)),
    )
    wishes = [(wish.file.path, wish.span, wish.gate) for wish in Profile(files).wishes(image.lookup)]
    assert wishes == [
        (b"folder/b", Span(0, 5), False),
        (b"folder/b", Span(8, 2), False),
        (b"a", Span(50, 10), False),
    ]


def test_on_disk(tmp_path: Path) -> None:
    kept = Profile((Touched("usr/ü %".encode() + b"\xff", 3, ((0, 7), (9, 12)), 2),))
    path = tmp_path / file_name(Digest.of(b"config"))
    write_atomically(path, pack(kept))
    assert unpack(path.read_bytes()) == kept
    assert path.read_bytes().isascii()


FILE = '{"path": "a", "at": 0, "missed": 0, "ranges": "0-1"}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 2, "files": []}',
        '{"version": 1}',
        *(
            '{"version": 1, "files": [' + FILE.replace(old, new) + "]}"
            for old, new in (
                ('"a"', '""'),
                ('"a"', '"%00"'),
                ('"a"', "7"),
                ('"0-1"', '""'),
                ('"0-1"', '"1-1"'),
                ('"0-1"', '"0-1 "'),
                ('"0-1"', '"0-1,3-4"'),
                ('"0-1"', '"0-1111111111111111111"'),
                ('"at": 0', '"at": -1'),
                ('"missed": 0', '"missed": "x"'),
            )
        ),
    ],
)
def test_damaged(text: str) -> None:
    assert unpack(b'{"version": 1, "files": [' + FILE.encode() + b"]}").files
    with pytest.raises(StoreDamaged):
        unpack(text.encode())
