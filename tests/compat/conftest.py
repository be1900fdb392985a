"""The clients, the images, and the collecting of what the tests of tests/compat/test_compat_matrix.py find."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compat.cells import Cell, Results
from tests.compat.site import FIXTURES, Site, make_plain
from tests.conftest import CACHE
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder
from tests.harness.podman import Binaries
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack

_results = pytest.StashKey[Results]()
_passed = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    outcome = yield
    report: pytest.TestReport = outcome.get_result()
    if report.when == "call":
        item.stash[_passed] = report.passed


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config) -> Results:
    return pytestconfig.stash.setdefault(_results, Results())


@pytest.fixture
def cell(request: pytest.FixtureRequest, site: Site, results: Results) -> Iterator[Cell]:
    """The verdict of the test that uses it; the test's name says which row of the table it is."""
    found = Cell()
    yield found
    if request.node.stash.get(_passed, False):
        operation = request.node.originalname.removeprefix("test_").replace("_", " ")
        results.versions[site.suite] = ".".join(map(str, site.podman.version))
        results.cells[site.suite, operation, site.kind] = found.text


def client(suite: str) -> Binaries:
    """The programs of a suite's podman; where they cannot be had, the test is skipped."""
    try:
        return binaries_of(suite, CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def registry(session_dir: Path) -> Iterator[RegistryServer]:
    with RegistryServer(session_dir / "compat-registry") as server:
        yield server


@pytest.fixture(scope="session")
def elsewhere(session_dir: Path) -> Iterator[RegistryServer]:
    """A second registry, to push to: in the first one podman would mount the blobs that it knows to be there."""
    with RegistryServer(session_dir / "compat-elsewhere") as server:
        yield server


@pytest.fixture(scope="session")
def unknown(session_dir: Path, registry: RegistryServer) -> str:
    """An image that nobody pulls while als runs."""
    images = ImageFactory(session_dir / "compat-oci")
    images.runnable("unknown", [TarBuilder().file("marker", b"pulled plainly\n").build()])
    return registry.push(images.layout.name("unknown"), "unknown:1")


@pytest.fixture(scope="module")
def site(
    as_root: None,
    module_dir: Path,
    registry: RegistryServer,
    elsewhere: RegistryServer,
    fixtures_dir: Path,
    unknown: str,
    request: pytest.FixtureRequest,
) -> Iterator[Site]:
    """A client and an image, from the parameters ``(suite, kind)``; the image is pulled through the store."""
    suite, kind = request.param
    binaries = client(suite)
    layout = fixtures_dir / FIXTURES[kind]
    # A repository for each, so that the access log tells them apart.
    reference = registry.push(f"oci:{layout}", f"{suite}/{kind}:1")
    truth = json.loads((fixtures_dir / "truth-tiny.json").read_bytes())
    base = module_dir / f"{suite[0]}{kind[0]}"
    other = elsewhere.address
    # Layers with a table of contents come through the layer store, and all others through the mirror.
    running = Stack(base, registry, binaries, insecure=(other,), mirror=kind in ("gzip", "zstd"))
    with make_plain(base / "n", registry, binaries) as plain, running as stack:
        plain.pull(reference)
        before = len(registry.requests())
        made = Site(suite, kind, stack, plain, reference, layout, truth, other, unknown)
        stack.pull(reference)
        made.requests = made.since(before)
        yield made
