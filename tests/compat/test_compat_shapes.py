"""Images of unusual shape, and what an image costs whose files are here already: with every client."""

from __future__ import annotations

import platform
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.compat.cells import SUITES
from tests.compat.conftest import client
from tests.compat.site import own_data
from tests.harness.disk import bytes_on_disk
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import ARCHITECTURE, TarBuilder
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack
from tests.harness.system import run

HEIGHT = 120
FILES, SHARED = 400, 380


@pytest.fixture(scope="session")
def images(session_dir: Path) -> ImageFactory:
    return ImageFactory(session_dir / "shapes")


@pytest.fixture(scope="module", params=SUITES)
def stack(as_root: None, module_dir: Path, registry: RegistryServer, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """One client after the other."""
    with Stack(module_dir / request.param[0], registry, client(request.param)) as running:
        yield running


Pull = Callable[..., str]


@pytest.fixture
def pull(stack: Stack, images: ImageFactory, registry: RegistryServer) -> Pull:
    """Pulls an image of `images` through the store and returns its reference; nothing of it may be podman's own."""

    def pull(tag: str, *options: str) -> str:
        reference = registry.push(images.layout.name(tag), f"shapes/{tag}:1", *options)
        stack.pull(reference)
        assert own_data(stack.podman) == [], stack.als.log_text()[-4000:]
        return reference

    return pull


def test_one_layer_twice(stack: Stack, images: ImageFactory, pull: Pull) -> None:
    """Overlay refuses a directory that it is given twice."""
    first = images.layout.add_layer(TarBuilder().file("a", b"first\n" * 50).file("b", b"of the first\n" * 50).build())
    second = images.layout.add_layer(TarBuilder().file("a", b"second\n" * 50).build())
    images.layout.add_image("twice", [images.base, first, second, first])
    reference = pull("twice")
    assert stack.podman.run(reference, "sh", "-c", "head -n 1 /a; head -n 1 /b") == "first\nof the first\n"
    stack.podman("rmi", reference)


def test_a_tall_image(stack: Stack, images: ImageFactory, pull: Pull) -> None:
    """Overlay takes some 500 directories, but podman 4 hands them over in one page."""
    if not images.layout.has("tall"):
        images.tower("tall", HEIGHT)
    reference = pull("tall")
    seen = stack.podman.run(reference, "sh", "-c", f"ls /stack | wc -l; cat /stack/top /stack/1 /stack/{HEIGHT - 1}")
    assert seen.split() == [str(HEIGHT), str(HEIGHT - 1), "1", str(HEIGHT - 1)]
    stack.podman("rmi", reference)


def test_an_empty_layer(stack: Stack, images: ImageFactory, pull: Pull) -> None:
    """In the middle and on top, as ``docker build`` made them."""
    empty = images.layout.add_layer(TarBuilder().build())
    full = images.layout.add_layer(TarBuilder().file("f", b"between\n" * 20).build())
    images.layout.add_image("empty", [images.base, empty, full, empty])
    reference = pull("empty")
    assert stack.podman.run(reference, "head", "-n", "1", "/f") == "between\n"
    stack.podman("rmi", reference)


def test_docker_schema_2(stack: Stack, images: ImageFactory, registry: RegistryServer) -> None:
    images.runnable("docker", [TarBuilder().file("f", b"by docker\n" * 20).build()])
    reference = f"{registry.address}/shapes/docker:1"
    copy = ("skopeo", "--insecure-policy", "copy", "-q", "--format", "v2s2", "--dest-tls-verify=false")
    run(*copy, images.layout.name("docker"), f"docker://{reference}")
    stack.pull(reference)
    assert own_data(stack.podman) == []
    assert stack.podman.json("image", "inspect", reference)[0]["ManifestType"].startswith("application/vnd.docker.")
    assert stack.podman.run(reference, "head", "-n", "1", "/f") == "by docker\n"
    stack.podman("rmi", reference)


def test_an_index_of_platforms(stack: Stack, images: ImageFactory, pull: Pull) -> None:
    here = ARCHITECTURE[platform.machine()]
    made = {}
    for architecture in ("s390x", here, "riscv64"):
        layer = images.layout.add_layer(TarBuilder().file("machine", architecture.encode() * 20).build())
        made[architecture] = images.layout.add_image(f"for-{architecture}", [images.base, layer], architecture=architecture)
    digest = images.layout.add_index("index", made)
    reference = pull("index", "--all")
    assert stack.podman.run(reference, "cat", "/machine") == here * 20
    digests = stack.podman.json("image", "inspect", reference)[0]["RepoDigests"]
    assert any(name.endswith(digest) for name in digests)
    stack.podman("rmi", reference)


def test_only_new_files_are_written(stack: Stack, images: ImageFactory, pull: Pull) -> None:
    """Of an image of plain gzip layers that has 95 % of its files in common with one that is here."""
    source = random.Random(7)
    files = {f"data/{n // 50}/{n}": source.randbytes(source.randrange(5_000, 100_000)) for n in range(FILES)}
    other = {name: data if n < SHARED else source.randbytes(len(data)) for n, (name, data) in enumerate(files.items())}
    for tag, content, mtime in (("before", files, 1_600_000_000), ("after", other, 1_700_000_000)):
        tar = TarBuilder(mtime=mtime)
        for name, data in content.items():
            tar.file(name, data)
        images.runnable(tag, [tar.build()])
    places = (stack.als.root, stack.podman.graph_root)
    first = pull("before")
    before = bytes_on_disk(*places)
    second = pull("after")
    written = bytes_on_disk(*places) - before
    new = sum(len(data) for name, data in other.items() if files[name] != data)
    # What else there is: the layer's metadata, directories of hardlinks, the rounding to whole blocks, podman's lists.
    assert new < written < new + 1_000 * FILES, f"{written:,} bytes for {new:,} of new files"
    count = "find /data -type f | wc -l"
    for reference in (first, second):
        assert stack.podman.run(reference, "sh", "-c", count) == f"{FILES}\n"
        stack.podman("rmi", reference)
