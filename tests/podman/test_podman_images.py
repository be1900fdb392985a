"""Images that `als pull` brought are images of podman's: listed as read-only, run without a pull, and gone with `als rm`."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CACHE
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import ARCHITECTURE, TarBuilder
from tests.harness.podman import Binaries, Podman, Storage
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack

Push = Callable[[str], str]


@pytest.fixture(scope="module", params=["bookworm", "trixie", "forky"])
def binaries(request: pytest.FixtureRequest) -> Binaries:
    """Debian's podman 4.3, which has the diffN layout, and its 5.4 and 5.8, which have composefs."""
    try:
        return binaries_of(request.param, CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def stack(as_root: None, module_dir: Path, registry: RegistryServer, binaries: Binaries) -> Iterator[Stack]:
    with Stack(module_dir / "-".join(map(str, binaries.version)), registry, binaries) as running:
        yield running


@pytest.fixture(autouse=True)
def without_images(stack: Stack) -> Iterator[None]:
    """Nothing is left of a test for the next one."""
    yield
    stack.podman("rmi", "-af", status=None)
    for image in stack.als.json("images"):
        stack.als.cli("rm", image["reference"])


@pytest.fixture(scope="module")
def plain(stack: Stack, registry: RegistryServer, binaries: Binaries) -> Iterator[Podman]:
    """The same podman without als."""
    with Podman(stack.als.root.parent / "plain", Storage(insecure=(registry.address,)), binaries) as podman:
        yield podman


def store_of(stack: Stack) -> Path:
    (store,) = stack.podman.storage.image_stores
    return store


def listed(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "overlay-images" / "images.json").read_bytes()))


def as_printed(podman: Podman) -> list[str]:
    return sorted(podman.text("images", "--format", "{{.Repository}}:{{.Tag}} {{.ReadOnly}}").splitlines())


def upper(text: str) -> bytes:
    return TarBuilder().file("text", text.encode() * 500).build()


def without_signatures(record: dict[str, Any]) -> dict[str, Any]:
    """podman 4 writes down that there are none, as a file without content; later ones do not. The history is of names."""
    kept: dict[str, Any] = {"metadata": "{}"}
    for key, value in record.items():
        if key == "big-data-names":
            kept[key] = [name for name in value if not name.startswith("signature-")]
        elif key in ("big-data-sizes", "big-data-digests"):
            kept[key] = {name: each for name, each in value.items() if not name.startswith("signature-")}
        elif key not in ("metadata", "names-history"):
            kept[key] = value
    return kept


def test_the_records_are_those_that_podman_writes(stack: Stack, plain: Podman, images: ImageFactory) -> None:
    images.runnable("single", [upper("text")])
    inner = images.layout.add_image("inner", [images.base, images.layout.add_layer(upper("text of one of several"))])
    images.layout.add_index("several", {ARCHITECTURE[platform.machine()]: inner})
    for tag in ("single", "several"):
        reference = stack.registry.push(images.layout.name(tag), f"{tag}:1", "--all")
        stack.als.cli("pull", "-q", reference)
        plain.pull(reference)
        (theirs,) = listed(plain.graph_root)
        (ours,) = [entry for entry in listed(store_of(stack)) if reference in entry["names"]]
        assert ours == without_signatures(theirs)
        files = [
            {path.name: path.read_bytes() for path in (root / "overlay-images" / ours["id"]).iterdir()}
            for root in (store_of(stack), plain.graph_root)
        ]
        assert files[0] == {name: data for name, data in files[1].items() if data}
        plain("rmi", "-a")
        shown = stack.podman.json("image", "inspect", reference)[0]
        assert shown["Id"] == theirs["id"]
        for name in (reference, f"{reference.rpartition(':')[0]}@{theirs['digest']}", theirs["id"]):
            assert stack.podman.run(name, "head", "-c4", "/text") == "text"


def test_pulled_run_and_removed(stack: Stack, images: ImageFactory, push: Push, registry: RegistryServer) -> None:
    images.runnable("listed", [upper("listed")])
    reference = push("listed")
    stack.als.cli("pull", "-q", reference)
    before = registry.requests()
    assert as_printed(stack.podman) == [f"{reference} true"]
    assert stack.podman("run", "--rm", reference, "head", "-c6", "/text").stdout == b"listed"
    assert registry.requests() == before, "it is an image like any other that is here"
    refused = stack.podman("rmi", reference, status=None)
    assert refused.returncode != 0 and b"read-only" in refused.stderr
    container = stack.podman.text("create", reference, "cat", "/text")
    assert "in use" in stack.als.cli("rm", reference).stdout.decode()
    assert as_printed(stack.podman) == []
    stack.als.cli("gc")
    assert stack.podman("start", "-a", container).stdout == b"listed" * 500
    stack.podman("rm", container)
    assert stack.als.json("gc")["chains"], "its layers go with the last container"
    assert stack.als.json("fsck")["found"] == []


def test_in_the_client_s_own_store_as_well(stack: Stack, images: ImageFactory, push: Push) -> None:
    """podman has a record of its own then, which goes and comes as ever; ours stays."""
    images.runnable("both", [upper("both")])
    reference = push("both")
    stack.als.cli("pull", "-q", reference)
    stack.podman.pull(reference)
    assert as_printed(stack.podman) == [f"{reference} false", f"{reference} true"]
    stack.als.cli("rm", reference)
    assert as_printed(stack.podman) == [f"{reference} false"]
    stack.als.cli("gc")
    assert stack.podman.run(reference, "head", "-c4", "/text") == "both"
    stack.als.cli("pull", "-q", reference)
    stack.podman("rmi", reference)
    assert as_printed(stack.podman) == [f"{reference} true"]
    assert stack.podman.run(reference, "head", "-c4", "/text") == "both"
    stack.als.cli("rm", reference)


def test_a_client_s_pull_lists_nothing(stack: Stack, images: ImageFactory, push: Push) -> None:
    images.runnable("theirs", [upper("theirs")])
    reference = push("theirs")
    stack.podman.pull(reference)
    assert as_printed(stack.podman) == [f"{reference} false"]
    stack.podman("rmi", reference)
    assert as_printed(stack.podman) == []


def test_where_signatures_are_wanted_podman_itself_pulls(stack: Stack, images: ImageFactory, push: Push) -> None:
    """The layers are there, so that it downloads none of them; the image is for it to verify, which it cannot here."""
    images.runnable("signed", [upper("signed")])
    reference = push("signed")
    policy = stack.podman.base / ".config" / "containers" / "policy.json"
    taken = policy.read_bytes()
    signed = [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/nowhere"}]
    policy.write_text(json.dumps({"default": signed}))
    try:
        assert b"published its layers only" in stack.als.cli("pull", reference).stderr
        assert as_printed(stack.podman) == []
        assert stack.podman.pull(reference, status=None).returncode != 0
        policy.write_text(json.dumps({"default": [{"type": "reject"}]}))
        refused = stack.als.cli("pull", reference, status=5)
        assert b"rejected by" in refused.stderr
    finally:
        policy.write_bytes(taken)
    stack.als.cli("rm", reference)
