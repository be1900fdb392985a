"""Many containers at once, many layers, one layer twice, and a daemon that is gone."""

from __future__ import annotations

import signal

import pytest

from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder
from tests.harness.stack import Stack
from tests.podman.conftest import Push


def test_twenty_containers_at_once(stack: Stack, images: ImageFactory, push: Push) -> None:
    podman = stack.podman
    images.runnable("many", [TarBuilder().file("data", b"seen by all\n" * 1000).build()])
    reference = push("many")
    stack.pull(reference)
    # Each container checks for itself and tells by its exit status: with so many at once it was seen that podman reported
    # success and had nothing of what a container printed, which says nothing about the files that it read.
    check = "test $(wc -l </data) = 1000 && echo {0} >/mine && test $(cat /mine) = {0} && exit {1}"
    running = [podman.start("run", "--rm", "--pull=never", reference, "sh", "-c", check.format(n, 40 + n)) for n in range(20)]
    for n, process in enumerate(running):
        _, err = process.communicate(timeout=180)
        assert process.returncode == 40 + n, err.decode()
    assert podman.text("ps", "-aq") == ""


def test_pulls_at_once_are_one(stack: Stack, images: ImageFactory, push: Push) -> None:
    podman = stack.podman
    images.runnable("race", [TarBuilder().file("race", b"r" * 300_000).build()])
    reference = push("race")
    pulls = [podman.start("pull", "-q", reference) for _ in range(4)]
    for process in pulls:
        _, err = process.communicate(timeout=180)
        assert process.returncode == 0, err.decode()
    assert podman.run(reference, "sh", "-c", "wc -c </race").strip() == "300000"
    blob = images.layout.add_layer(TarBuilder().file("race", b"r" * 300_000).build()).digest
    gets = [
        line
        for line in stack.registry.log.splitlines()
        if f"GET /v2/race/blobs/{blob} HTTP" in line and 'HTTP/1.1" 200' in line
    ]
    assert len(gets) == 1, "the layer was downloaded more than once:\n" + "\n".join([*gets, stack.als.log_text()])


def test_an_image_that_lists_one_layer_twice(stack: Stack, images: ImageFactory, push: Push) -> None:
    layer = images.layout.add_layer(TarBuilder().file("twice", b"first\n").build())
    other = images.layout.add_layer(TarBuilder().file("twice", b"second\n").build())
    images.layout.add_image("twice", [images.base, layer, other, layer])
    reference = push("twice")
    stack.pull(reference)
    assert stack.podman.run(reference, "cat", "/twice") == "first\n"
    assert len(stack.podman.layers(reference)) == 4


def check_tower(stack: Stack, reference: str, height: int) -> None:
    stack.pull(reference)
    seen = stack.podman.run(reference, "sh", "-c", "cat /stack/top; ls /stack | wc -l; cat /stack/1")
    assert seen.split() == [str(height - 1), str(height), "1"]


@pytest.mark.parametrize("height", [50, 120])
def test_towers(stack: Stack, images: ImageFactory, push: Push, height: int) -> None:
    """Whatever its height, up to the 127 layers that plain overlay takes, an image runs."""
    images.tower(f"tower-{height}", height, mtime=1_500_000_000 + height)
    check_tower(stack, push(f"tower-{height}"), height)


def test_a_tall_image_on_a_served_base(stack: Stack, images: ImageFactory, push: Push) -> None:
    """Podman takes each layer that it finds in the image store, whichever image brought it there."""
    for height in (50, 120):
        images.tower(f"base-{height}", height)
        check_tower(stack, push(f"base-{height}"), height)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_images_outlive_the_daemon(stack: Stack, images: ImageFactory, push: Push, how: signal.Signals) -> None:
    podman, als = stack.podman, stack.als
    images.runnable("outlives", [TarBuilder().file("stays", b"still here\n").build()])
    reference = push("outlives")
    stack.pull(reference)
    podman("run", "-d", "--name", "before", "--pull=never", reference, "sleep", "1000")
    status = als.stop(how)
    if how is signal.SIGKILL:
        als.start()  # What systemd does; a dead FUSE mount must not keep the next daemon from starting.
        als.stop()
    else:
        assert status == 0, als.log_text()
    try:
        assert podman.run(reference, "cat", "/stays") == "still here\n"
        assert podman.text("exec", "before", "cat", "/stays") == "still here"
        assert podman.text("image", "exists", reference) == ""
    finally:
        als.start()
    assert podman.run(reference, "cat", "/stays") == "still here\n"
    podman("rm", "-f", "-t", "0", "before")


def test_clean_exit_unmounts_only_the_face(stack: Stack) -> None:
    stack.als.stop()
    assert not stack.als.serving()
    stack.als.start()
    assert stack.als.serving()
