"""An image's life with podman: pulled, run, changed, committed, measured, removed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder
from tests.harness.stack import Stack
from tests.podman.conftest import Push

TEXT = b"kept through every change of its mode\n" * 300


@pytest.fixture(scope="module")
def pulled(stack: Stack, images: ImageFactory, push: Push) -> Iterator[str]:
    """A runnable image of three layers, pulled through the Additional Layer Store."""
    data = TarBuilder().directory("srv").file("srv/text", TEXT).file("srv/other", b"other").directory("srv/empty").build()
    change = (
        TarBuilder().directory("srv").whiteout("srv/other").file("srv/third", b"third\n").symlink("srv/link", "third").build()
    )
    images.runnable("life", [data, change])
    reference = push("life")
    stack.pull(reference)
    yield reference
    stack.podman("rmi", "-f", reference, status=None)


def test_layers_come_from_the_store(stack: Stack, pulled: str) -> None:
    listed = json.loads((stack.als.image_store / "overlay-layers" / "layers.json").read_bytes())
    published = {layer["diff-digest"] for layer in listed}
    assert set(stack.podman.layers(pulled)) <= published
    own = stack.podman.own_layers()
    assert not [layer for layer in own if layer.get("diff-digest") in published], "podman keeps layers of its own"


def test_run(stack: Stack, pulled: str) -> None:
    seen = stack.podman.run(pulled, "sh", "-c", "ls /srv; cat /srv/link; wc -c </srv/text")
    assert seen.split() == ["empty", "link", "text", "third", "third", str(len(TEXT))]


def test_images_and_system_df(stack: Stack, pulled: str) -> None:
    (image,) = (i for i in stack.podman.json("images", "--format", "json") if pulled in (i.get("Names") or []))
    assert len(TEXT) < image["Size"] < 64 << 20
    rows = dict(line.split() for line in stack.podman.text("system", "df", "--format", "{{.Type}} {{.Total}}").splitlines()[:1])
    assert int(rows["Images"]) >= 1


def test_read_only(stack: Stack, pulled: str) -> None:
    stack.podman.run(pulled, "sh", "-c", "test -s /srv/text && ! touch /srv/new", options=("--read-only",))


def test_volumes(stack: Stack, pulled: str) -> None:
    podman = stack.podman
    podman("volume", "create", "vol")
    podman.run(pulled, "sh", "-c", "cp /srv/text /vol/copy", options=("-v", "vol:/vol"))
    assert podman.run(pulled, "cat", "/vol/copy", options=("-v", "vol:/vol", "--read-only")).encode() == TEXT
    # A new volume over a folder of the image is filled with what the image has there.
    assert podman.run(pulled, "cat", "/srv/third", options=("-v", "filled:/srv")) == "third\n"
    podman("volume", "rm", "vol", "filled")


def test_diff_of_a_container(stack: Stack, pulled: str) -> None:
    podman = stack.podman
    podman("run", "--name", "differ", pulled, "sh", "-c", "echo x >/srv/added; rm /srv/third; chmod 600 /srv/text")
    changes = {(change, path) for change, paths in podman.json("diff", "--format", "json", "differ").items() for path in paths}
    assert {("added", "/srv/added"), ("deleted", "/srv/third"), ("changed", "/srv/text")} <= changes
    assert ("changed", "/srv/link") not in changes
    podman("rm", "differ")


def test_image_diff(stack: Stack, pulled: str) -> None:
    changes = stack.podman.json("image", "diff", "--format", "json", pulled)
    paths = {kind: set(names) for kind, names in changes.items()}
    assert {"/srv/third", "/srv/link"} <= paths["added"]
    assert "/srv/other" in paths["deleted"]
    assert not any(path.startswith(("/.als", "/00", "/ff")) for names in paths.values() for path in names)


def test_commit_keeps_what_was_only_chmodded(stack: Stack, pulled: str) -> None:
    podman = stack.podman
    podman("run", "--name", "base", pulled, "sh", "-c", "chmod 711 /srv/text; chown 7:8 /srv/third; echo more >>/srv/link2")
    podman("commit", "-q", "base", "localhost/committed:1")
    seen = podman.run("localhost/committed:1", "sh", "-c", "stat -c '%a %u %g' /srv/text /srv/third; cat /srv/text")
    modes, text = seen.split("\n", 2)[:2], seen.split("\n", 2)[2]
    assert modes == ["711 0 0", "644 7 8"]
    assert text.encode() == TEXT
    podman("rm", "base")
    # The committed layer is podman's own; it has the whole file and not a reference into our store.
    podman("save", "-q", "--format", "oci-archive", "-o", podman.base / "committed.tar", "localhost/committed:1")
    assert (podman.base / "committed.tar").stat().st_size > 0
    podman("rmi", "localhost/committed:1")


def test_rmi_and_pull_again(stack: Stack, images: ImageFactory, push: Push) -> None:
    podman = stack.podman
    images.runnable("shortlived", [TarBuilder().file("only", b"here").build()])
    reference = push("shortlived")
    for _ in range(2):
        stack.pull(reference)
        assert podman.run(reference, "cat", "/only") == "here"
        podman("rmi", reference)
        assert podman("image", "exists", reference, status=None).returncode == 1
