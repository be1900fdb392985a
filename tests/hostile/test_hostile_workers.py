"""Workers that were taken over: real processes that speak the protocol of frames, and lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from als.errors import AlsError, BadImage, DeadlineExceeded, DigestMismatch, LimitExceeded, WorkerError
from als.model.digest import Digest
from als.model.limits import Limits
from als.model.reference import parse_reference
from tests.harness.ocilayout import Layout, TarBuilder
from tests.hostile.conftest import OpenService, held, pull, refused
from tests.hostile.liars import FETCH_LIES, PARSE_LIES, STREAM_LIES, TAR_BYTES, honest

LIMITS = Limits(layer_bytes=8 << 20, entries=20_000, metadata_bytes=8 << 20)
STALL = 1.0


def tar() -> bytes:
    return TarBuilder().directory("etc").file("etc/passwd", b"root" * 500).file("etc/tiny", b"x").symlink("l", "etc").build()


PATHS = (
    b"../x",
    b"/../../etc/passwd",
    b"etc/../../x",
    b"a\0b",
    b"",
    b"x" * 256,
    b"d/" * 5000 + b"x",
    b".wh.",
    b".wh..",
    b"\xff" * 300,
)

LIES: dict[str, type[AlsError]] = {
    "changed": DigestMismatch,
    "swapped": WorkerError,
    "nothing": DigestMismatch,
    "endless-segments": LimitExceeded,
    "endless-nothing": WorkerError,
    "endless-empty-frames": WorkerError,
    "endless-places": WorkerError,
    "endless-unknown": WorkerError,
    "endless-headers": WorkerError,
    "endless-entries": LimitExceeded,
    "endless-names": LimitExceeded,
    "endless-xattrs": LimitExceeded,
    "holes": LimitExceeded,
    "endless-map": WorkerError,
    "silence": DeadlineExceeded,
    "silence-at-the-end": DeadlineExceeded,
    "half-a-frame": WorkerError,
    "long-frame": WorkerError,
    "deep-error": WorkerError,
    "error:7b2274797065223a20224e6f74466f756e64227d": AlsError,
    "error:" + b'{"type": "SystemExit", "what": "\x1b[2J"}'.hex(): WorkerError,
    "error:ff": WorkerError,
    "error:5b5d": WorkerError,
    "link:" + b"/etc/passwd".hex(): BadImage,
    "link:" + b"../../etc/passwd".hex(): BadImage,
    "link:" + b"x".hex(): BadImage,
    "unread": WorkerError,
}


STREAM_ERRORS: dict[str, type[AlsError]] = {
    "stream-endless": DigestMismatch,
    "stream-endless-nothing": WorkerError,
    "stream-endless-headers": WorkerError,
    "stream-changed": DigestMismatch,
    "stream-nothing": DigestMismatch,
    "stream-unread": WorkerError,
    "stream-error": WorkerError,
    "stream-silence": DeadlineExceeded,
    "stream-silence-at-the-end": DeadlineExceeded,
    "stream-death": WorkerError,
}


def test_no_lie_is_left_out() -> None:
    assert {lie.partition(":")[0] for lie in LIES} | {"path", "death"} == set(PARSE_LIES)


@pytest.mark.parametrize("lie", LIES)
def test_a_parse_worker_that_lies(open_service: OpenService, layout: Layout, lie: str) -> None:
    blob = layout.add_layer(tar(), "none")
    if lie == "unread":
        # What it says is all right, and so is the DiffID; the rest of the blob, of which it tells nothing, need not be.
        whole = tar() + os.urandom(4 << 20)
        blob = type(blob)(*layout.add_blob(whole), blob.diff_id, blob.media_type)
        assert len(tar()) == TAR_BYTES
    layout.add_image("bad", [blob])
    refused(open_service(lie=lie, limits=LIMITS, stall=STALL), layout, LIES[lie])


def test_names_that_lead_elsewhere(open_service: OpenService, layout: Layout) -> None:
    layout.add_image("bad", [layout.add_layer(tar(), "none")])
    for path in PATHS:
        refused(open_service(lie=f"path:{path.hex()}", limits=LIMITS, stall=STALL), layout)


def test_a_parse_worker_that_dies_at_any_frame(open_service: OpenService, layout: Layout) -> None:
    layer = layout.add_layer(tar(), "none")
    layout.add_image("bad", [layer])
    with layout.blob(layer.digest).open("rb") as file:
        frames = honest(file.fileno())
    assert len(frames) > 8
    for count in range(len(frames)):
        error = refused(open_service(lie=f"death:{count}", stall=STALL), layout, WorkerError)
        assert error.what == "a worker ended without an answer"
    assert str(pull(open_service(), layout).manifest.layers[0].digest) == layer.digest


@pytest.mark.parametrize("lie", STREAM_LIES)
def test_a_stream_worker_that_lies(open_service: OpenService, layout: Layout, lie: str) -> None:
    """No blob becomes a layer's by what it says of it; what is here of the layer stays."""
    layer = layout.add_layer(tar(), "none")
    layout.add_image("good", [layer])
    service = open_service(lie=lie, limits=LIMITS, stall=STALL)
    pull(service, layout, "good")
    digest, size = layout.add_blob(tar() + os.urandom(4 << 20))
    layout.add_image("bad", [type(layer)(digest, size, layer.diff_id, layer.media_type)])
    error = refused(service, layout, STREAM_ERRORS[lie])
    assert digest in error.where
    assert not service.layers.get(Digest.parse(layer.diff_id)).is_held_by(Digest.parse(digest))


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An image in a registry that nobody is ever asked for: the workers that should do it lie."""
    (tmp_path / "empty.conf").write_text("")
    (tmp_path / "auth.json").write_text("{}")
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "empty.conf"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    return "127.0.0.1:1/team/app"


@pytest.mark.parametrize("lie", FETCH_LIES)
@pytest.mark.parametrize("what", ["manifest", "config", "blob"])
def test_a_fetch_worker_that_lies(open_service: OpenService, layout: Layout, reference: str, what: str, lie: str) -> None:
    image = layout.add_image("bad", [layout.add_layer(tar(), "none")])
    service = open_service(lie=f"{what}:{lie}", limits=LIMITS, stall=STALL)
    with pytest.raises(AlsError) as caught:
        service.pull(parse_reference(f"{reference}@{image.digest}"))
    if lie in ("silence", "silence-at-the-end"):
        assert isinstance(caught.value, DeadlineExceeded)
    elif lie in ("twisted", "shorter"):
        assert isinstance(caught.value, DigestMismatch)
    assert str(caught.value).isprintable()
    assert held(service) == []


def test_the_same_fetch_worker_telling_the_truth(open_service: OpenService, layout: Layout, reference: str) -> None:
    image = layout.add_image("good", [layout.add_layer(tar(), "none")])
    service = open_service(lie="truth", stall=STALL)
    assert service.pull(parse_reference(f"{reference}@{image.digest}")).digest.hex in image.digest
