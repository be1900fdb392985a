"""The fetching of clients that the other tests of this folder use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compat.conftest import client
from tests.conftest import CACHE
from tests.harness.clients import Unavailable, fetch
from tests.harness.system import run


@pytest.mark.parametrize(("suite", "oldest"), [("trixie", (5, 4)), ("forky", (5, 8))])
def test_programs_run(suite: str, oldest: tuple[int, ...]) -> None:
    binaries = client(suite)
    assert binaries.version >= oldest
    for name, path in binaries.paths().items():
        assert Path(path).is_relative_to(CACHE.resolve()), f"{name} is the machine's own"
        run(path, "--version")
    run(Path(binaries.helpers) / "netavark", "--version")
    # Found in the cache the second time: the same folder, not made anew.
    before = Path(binaries.podman).stat()
    assert Path(client(suite).podman).stat() == before


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    client("trixie")  # Where clients cannot be had for another reason, there is nothing to see.
    with pytest.raises(Unavailable, match="cannot be downloaded"):
        fetch("no-such-suite", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["podman-no-such-suite.lock"]
