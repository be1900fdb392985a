"""The ways to an image beside those of the table: pulled by als beforehand, and both faces at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compat.cells import SUITES
from tests.compat.conftest import client
from tests.compat.site import BUSYBOX, FIXTURES, WITH_BUSYBOX, own_data, requests_since
from tests.harness.archives import diff_ids_of_archive
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack

TEXT = b"kept although its mode changes\n" * 200


@pytest.fixture(scope="module")
def images(module_dir: Path) -> ImageFactory:
    return ImageFactory(module_dir / "oci")


@pytest.fixture(scope="module", params=SUITES)
def stack(as_root: None, module_dir: Path, registry: RegistryServer, request: pytest.FixtureRequest) -> Iterator[Stack]:
    with Stack(module_dir / request.param[0], registry, client(request.param)) as running:
        yield running


@pytest.mark.parametrize("kind", ["gzip", "estargz"])
def test_pulled_by_als(stack: Stack, registry: RegistryServer, fixtures_dir: Path, tmp_path: Path, kind: str) -> None:
    """`als pull` beforehand: podman has the image at once, read-only, and asks no registry; `als rm` takes it away."""
    podman = stack.podman
    reference = registry.push(f"oci:{fixtures_dir / FIXTURES[kind]}", f"ways/als-{kind}:1")
    digest = stack.als.cli("pull", "-q", reference).stdout.decode().strip()
    before = len(registry.requests())
    (row,) = podman.json("images", "--format", "json", reference)
    assert (row["Digest"], row["ReadOnly"]) == (digest, True)
    done = podman("run", "--rm", *WITH_BUSYBOX, reference, BUSYBOX, "cat", "/opt/data/new1")
    assert done.stdout == b"new1\n"
    podman("save", "-q", "--format", "oci-archive", "-o", tmp_path / "saved.tar", reference)
    assert diff_ids_of_archive(tmp_path / "saved.tar") == podman.layers(reference)
    assert b"read-only image" in podman("rmi", reference, status=None).stderr
    assert requests_since(registry, before) == []
    assert own_data(podman) == []
    stack.als.cli("rm", reference)
    assert podman("image", "exists", reference, status=None).returncode == 1


@pytest.mark.parametrize("kind", ["chunked", "estargz"])
def test_a_table_of_contents_through_the_mirror(stack: Stack, registry: RegistryServer, fixtures_dir: Path, kind: str) -> None:
    """Mirror and layer store may both be configured, as `als setup` does it."""
    podman = stack.podman
    reference = registry.push(f"oci:{fixtures_dir / FIXTURES[kind]}", f"ways/both-{kind}:1")
    stack.pull(reference)
    assert own_data(podman) == []
    before = len(registry.requests())
    done = podman("run", "--rm", *WITH_BUSYBOX, reference, BUSYBOX, "cat", "/opt/data/new1")
    assert done.stdout == b"new1\n"
    assert requests_since(registry, before) == []
    podman("rmi", reference)


def test_automatic_user_namespace(stack: Stack, images: ImageFactory, registry: RegistryServer) -> None:
    """It is as large as the image's owners need; podman knows them from what the image store says of each layer."""
    podman = stack.podman
    podman.give_subordinate_ids(5_000_000, 200_000)
    tar = TarBuilder().directory("srv").file("srv/text", TEXT, uid=3000, gid=42).file("srv/plain", TEXT)
    images.runnable("auto", [tar.build()])
    reference = registry.push(images.layout.name("auto"), "ways/auto:1")
    stack.pull(reference)
    script = "stat -c '%u %g' / /srv/text /srv/plain; sha256sum </srv/text; cat /proc/self/uid_map"
    words = ("run", "--rm", "--userns=auto", reference, "sh", "-c", script)
    if podman.version < (5,):
        # As with --uidmap: see the table.
        assert b"no such file or directory" in podman(*words, status=127).stderr
    else:
        *owners, digest, mapping = podman.text(*words).splitlines()
        assert owners == ["0 0", "3000 42", "0 0"]
        assert digest.split()[0] == hashlib.sha256(TEXT).hexdigest()
        first, begin, size = map(int, mapping.split())
        assert (first, begin) == (0, 5_000_000)
        assert 3000 < size < 65536
    assert own_data(podman) == []
    podman("rmi", reference)


def test_build(stack: Stack, images: ImageFactory, registry: RegistryServer, module_dir: Path) -> None:
    """`podman build` on an image of the store. Isolation by chroot, because that needs no cgroups; the layers are the same."""
    podman = stack.podman
    images.runnable("base", [TarBuilder().directory("srv").file("srv/text", TEXT).file("srv/gone", b"gone").build()])
    reference = registry.push(images.layout.name("base"), "ways/base:1")
    stack.pull(reference)
    context = module_dir / "context"
    context.mkdir(exist_ok=True)
    (context / "Containerfile").write_text(f"FROM {reference}\nRUN chmod 600 /srv/text && rm /srv/gone && echo new >/new\n")
    podman("build", "-q", "--isolation=chroot", "--pull=never", "-t", "localhost/built:1", context)
    assert {"A /new", "C /srv/text", "D /srv/gone"} <= set(podman.text("image", "diff", "localhost/built:1").splitlines())
    seen = podman.run("localhost/built:1", "sh", "-c", "cat /new; stat -c %a /srv/text; ls /srv; sha256sum </srv/text")
    assert seen.split() == ["new", "600", "text", hashlib.sha256(TEXT).hexdigest(), "-"]
    podman("rmi", "localhost/built:1", reference)
