"""What paths name: one by one, and many together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.errors import BadImage
from als.model.paths import name_of, names_of

PARTS = st.lists(st.sampled_from([b"a", b"bc", b".", b"..", b".x", b"", b"\0", b"\xff"]), max_size=5)
PATHS = st.builds(lambda start, parts: start + b"/".join(parts), st.sampled_from([b"", b"/", b"./", b"d/e"]), PARTS)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"a", b"a"),
        (b"./a/b/", b"a/b"),
        (b"/a", b"a"),
        (b"a//b/./c", b"a/b/c"),
        (b"./.a", b".a"),
        (b"a/../b", None),
        (b"./", b""),
    ],
)
def test_a_name(path: bytes, name: bytes | None) -> None:
    assert name_of(path) == name
    assert names_of([path]) == [name]


@given(st.lists(PATHS, max_size=150))
def test_many_are_what_each_is(paths: list[bytes]) -> None:
    try:
        each: list[bytes | None] | None = [name_of(path) for path in paths]
    except BadImage:
        each = None
    if each is not None:
        assert names_of(paths) == each
        return
    with pytest.raises(BadImage):
        names_of(paths)
