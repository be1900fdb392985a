"""A layer's folder while it is coming."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from als.errors import StoreError
from als.lazy.partial import LazyFolder
from als.model.forest import FOREST
from als.store.layout import Layout

FILES = {hashlib.sha256(data).digest(): data for data in (b"one", b"another", b"third")}


def test_files_that_could_not_be_named_are_named_by_the_next_commit(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    layout.create()
    path = layout.lazy / "key"
    path.mkdir()
    LazyFolder.prepare(path, layout.lazy_files / "key")
    folder = LazyFolder(layout, path)
    folder.store_all(FILES)
    last = layout.object(list(FILES)[-1]).parent
    away = last.rename(last.with_name("away"))
    with pytest.raises(StoreError):
        folder.commit()
    assert folder.staged_bytes == sum(map(len, FILES.values()))
    Path(away).rename(last)
    assert set(folder.commit()) == set(FILES)
    assert {name: layout.object(name).read_bytes() for name in FILES} == FILES
    assert (folder.staged_bytes, folder.commit()) == (0, [])
    assert sorted(os.listdir(path / "diff1" / FOREST)) == sorted(name.hex() for name in FILES)
