"""Pods whose image lies in the store: pull, container, exec, logs, and CRI-O stopped or killed below them."""

from __future__ import annotations

import signal

import pytest

from tests.crio.conftest import Node
from tests.harness.crio import SLEEP

pytestmark = pytest.mark.usefixtures("pods")


def name_of(reference: str) -> str:
    """What the image's own file says."""
    return reference.rpartition("/")[2].partition(":")[0]


def config_of(node: Node, reference: str) -> str:
    """The digest of the image's config, which is the image's ID."""
    return "sha256:" + str(node.crio.images()[reference]["id"]).removeprefix("sha256:")


def test_a_plain_image_is_pulled_without_its_layers(node: Node, image: str) -> None:
    node.als.cli("pull", "-q", image)
    before = len(node.registry.requests())
    node.crio.pull(image)
    assert set(node.blobs_since(before)) <= {config_of(node, image)}
    assert node.crio.own_image_layers() == node.pause_layers
    pod = node.crio.pod()
    container = node.crio.container(pod, image, *SLEEP)
    assert node.crio.state(container) == "CONTAINER_RUNNING"
    assert node.crio.exec(container, "cat", "/srv/link") == name_of(image)
    assert node.crio.exec(container, "wc", "-c", "/srv/large").split()[0] == str(len(name_of(image)) * 10_000)
    assert "group" not in node.crio.exec(container, "ls", "/etc").split()
    assert node.crio("logs", container).stdout == b"started\n"
    assert node.crio.exec(container, "sh", "-c", "echo new >/srv/name; cat /srv/link") == "new"
    other = node.crio.container(pod, image, *SLEEP, name="other")
    assert node.crio.exec(other, "cat", "/srv/name") == name_of(image)


def test_kubelet_s_questions_are_answered(node: Node, image: str) -> None:
    """What it asks for over and over: a failure here makes a node unready."""
    node.als.cli("pull", "-q", image)
    node.crio.pull(image)
    status = node.crio.json("inspecti", image)
    assert status["status"]["id"] == node.crio.images()[image]["id"]
    assert len(status["info"]["imageSpec"]["rootfs"]["diff_ids"]) == 3
    assert int(status["status"]["size"]) > 1 << 20, "of all its layers"
    (file_system,) = node.crio.json("imagefsinfo")["status"]["imageFilesystems"]
    assert file_system["fsId"]["mountpoint"].startswith(str(node.crio.graph_root))


def test_a_user_namespace_maps_the_owners(node: Node, image: str) -> None:
    node.als.cli("pull", "-q", image)
    node.crio.pull(image)
    container = node.crio.container(node.crio.pod(users_from=200_000), image, *SLEEP)
    assert node.crio.exec(container, "cat", "/proc/self/uid_map").split() == ["0", "200000", "65536"]
    assert node.crio.exec(container, "stat", "-c", "%u:%g", "/srv/name", "/bin/busybox").split() == ["0:0", "0:0"]
    assert node.crio.exec(container, "sh", "-c", "echo new >/srv/name; cat /srv/link; stat -c %u /srv/name").split() == [
        "new",
        "0",
    ]
    assert node.crio.own_image_layers() == node.pause_layers, "no copy for other owners"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_containers_outlive_crio(node: Node, image: str, how: signal.Signals) -> None:
    node.als.cli("pull", "-q", image)
    node.crio.pull(image)
    pod = node.crio.pod()
    container = node.crio.container(pod, image, *SLEEP)
    before = len(node.registry.requests())
    with node.crio.stopped(how):
        pass
    assert node.crio.state(container) == "CONTAINER_RUNNING"
    assert node.crio.exec(container, "cat", "/srv/name") == name_of(image)
    assert image in node.crio.images()
    new = node.crio.container(pod, image, *SLEEP, name="new")
    assert node.crio.exec(new, "cat", "/srv/name") == name_of(image)
    node.crio.pull(image)
    assert node.crio.own_image_layers() == node.pause_layers
    assert set(node.blobs_since(before)) <= {config_of(node, image)}
