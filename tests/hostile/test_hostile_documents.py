"""Manifests, configs and indexes that lie, repeat themselves or never end."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from typing import Any

import pytest

from als.errors import AlsError, BadImage, DigestMismatch, LimitExceeded, NotFound, Unsupported
from als.service import Service
from als.service.removal import collect
from tests.harness.ocilayout import ARCHITECTURE, MANIFEST, MEDIA, REF_NAME, Layout, TarBuilder
from tests.hostile.conftest import held, pull, refused

Document = dict[str, Any]
INDEX = f"{MEDIA}.index.v1+json"


def tar() -> bytes:
    return TarBuilder().file("f", b"x" * 100).build()


def parts(layout: Layout) -> tuple[Document, Document]:
    """Manifest and config of a good image."""
    image = layout.add_image("bad", [layout.add_layer(tar())])
    manifest: Document = json.loads(layout.blob(image.digest).read_bytes())
    config: Document = json.loads(layout.blob(manifest["config"]["digest"]).read_bytes())
    return manifest, config


def list_manifest(layout: Layout, data: bytes, media_type: str = MANIFEST, **more: Any) -> None:
    """Let the layout's only entry be this document."""
    digest, size = layout.add_blob(data)
    entry = {"mediaType": media_type, "digest": digest, "size": size, "annotations": {REF_NAME: "bad"}, **more}
    (layout.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def with_manifest(change: Callable[[Document], object]) -> Callable[[Layout], None]:
    def make(layout: Layout) -> None:
        manifest, _ = parts(layout)
        change(manifest)
        list_manifest(layout, json.dumps(manifest).encode())

    return make


def with_config(change: Callable[[Document], object]) -> Callable[[Layout], None]:
    def make(layout: Layout) -> None:
        manifest, config = parts(layout)
        change(config)
        put_config(layout, manifest, json.dumps(config).encode())

    return make


def put_config(layout: Layout, manifest: Document, data: bytes) -> None:
    manifest["config"]["digest"], manifest["config"]["size"] = layout.add_blob(data)
    list_manifest(layout, json.dumps(manifest).encode())


def raw_manifest(data: bytes) -> Callable[[Layout], None]:
    return lambda layout: list_manifest(layout, data)


def raw_config(data: bytes) -> Callable[[Layout], None]:
    return lambda layout: put_config(layout, parts(layout)[0], data)


def text_manifest(old: str, new: str) -> Callable[[Layout], None]:
    def make(layout: Layout) -> None:
        text = json.dumps(parts(layout)[0])
        assert old in text
        list_manifest(layout, text.replace(old, new).encode())

    return make


def index_of_itself(layout: Layout) -> None:
    """Indexes within indexes; one cannot hold its own digest, so there are just many."""
    inner = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()
    for _ in range(10):
        digest, size = layout.add_blob(inner)
        inner = json.dumps(
            {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": INDEX, "digest": digest, "size": size}]}
        ).encode()
    list_manifest(layout, inner, INDEX)


def wide_index(layout: Layout) -> None:
    entry = {"mediaType": MANIFEST, "digest": f"sha256:{'0' * 64}", "size": 1, "platform": {"os": "plan9", "architecture": "x"}}
    list_manifest(layout, json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] * 20_000}).encode(), INDEX)


def long_index(layout: Layout) -> None:
    list_manifest(layout, b'{"schemaVersion": 2, "manifests": [' + b" " * (5 << 20) + b"]}", INDEX)


def changed_manifest(layout: Layout) -> None:
    """The bytes under its digest are another image's."""
    manifest, _ = parts(layout)
    digest = json.loads((layout.folder / "index.json").read_bytes())["manifests"][0]["digest"]
    layout.blob(digest).write_bytes(json.dumps({**manifest, "annotations": {"a": "b"}}).encode())


def changed_config(layout: Layout) -> None:
    manifest, config = parts(layout)
    layout.blob(manifest["config"]["digest"]).write_bytes(json.dumps({**config, "os": "LINUX"}).encode().ljust(10))


def layer_of(manifest: Document) -> Document:
    found: Document = manifest["layers"][0]
    return found


def twice_with_two_sizes(manifest: Document) -> None:
    manifest["layers"].append({**layer_of(manifest), "size": layer_of(manifest)["size"] + 1})


CASES: dict[str, tuple[Callable[[Layout], None], type[AlsError]]] = {
    "not JSON": (raw_manifest(b"\0\1\2"), BadImage),
    "empty": (raw_manifest(b""), BadImage),
    "an array": (raw_manifest(b"[]"), BadImage),
    "nothing in it": (raw_manifest(b"{}"), BadImage),
    "deep nesting": (raw_manifest(b'{"a":' * 100_000), BadImage),
    "deep arrays": (raw_manifest(b'{"schemaVersion": 2, "layers":' + b"[" * 1_000_000), BadImage),
    "a huge number": (text_manifest('"schemaVersion": 2', '"schemaVersion": ' + "9" * 10_000), BadImage),
    "a float": (text_manifest('"schemaVersion": 2', '"schemaVersion": 2.0'), BadImage),
    "not a number": (text_manifest('"schemaVersion": 2', '"schemaVersion": NaN'), BadImage),
    "a field twice": (text_manifest('"schemaVersion": 2', '"schemaVersion": 2, "schemaVersion": 2'), BadImage),
    "layers twice": (text_manifest('"layers":', '"layers": [], "layers":'), BadImage),
    "layers in two spellings": (text_manifest('"layers":', '"Layers": [], "layers":'), BadImage),
    "no UTF-8": (raw_manifest(b'{"schemaVersion": 2, "a": "\xff"}'), BadImage),
    "a lone surrogate": (text_manifest('"schemaVersion": 2', '"schemaVersion": 2, "mediaType": "\\ud800"'), BadImage),
    "too long": (raw_manifest(b'{"schemaVersion": 2}' + b" " * (4 << 20)), AlsError),
    "schema 1": (raw_manifest(b'{"schemaVersion": 1}'), Unsupported),
    "both kinds": (with_manifest(lambda each: each.update(manifests=[])), BadImage),
    "no digest": (with_manifest(lambda each: layer_of(each).update(digest="sha256:../../../../etc/passwd")), BadImage),
    "a digest with a path": (with_manifest(lambda each: layer_of(each).update(digest="../../../etc/passwd")), BadImage),
    "an unknown algorithm": (with_manifest(lambda each: layer_of(each).update(digest="md5:" + "0" * 32)), BadImage),
    "a negative size": (with_manifest(lambda each: layer_of(each).update(size=-1)), BadImage),
    "a huge size": (with_manifest(lambda each: layer_of(each).update(size=1 << 62)), LimitExceeded),
    "a size beyond 64 bits": (with_manifest(lambda each: layer_of(each).update(size=1 << 70)), BadImage),
    "a size that is text": (with_manifest(lambda each: layer_of(each).update(size="100")), BadImage),
    "a size too small": (with_manifest(lambda each: layer_of(each).update(size=3)), DigestMismatch),
    "a size too large": (with_manifest(lambda each: layer_of(each).update(size=100_000)), DigestMismatch),
    "the same digest of two sizes": (with_manifest(twice_with_two_sizes), BadImage),
    "a layer more than the config": (with_manifest(lambda each: each["layers"].append(layer_of(each))), BadImage),
    "a layer less than the config": (with_manifest(lambda each: each["layers"].clear()), BadImage),
    "100,000 layers": (with_manifest(lambda each: each.update(layers=each["layers"] * 10_000)), BadImage),
    "a foreign media type": (with_manifest(lambda each: layer_of(each).update(mediaType="text/html")), Unsupported),
    "annotated as two formats": (
        with_manifest(
            lambda each: layer_of(each).update(
                annotations={
                    "containerd.io/snapshot/stargz/toc.digest": f"sha256:{'0' * 64}",
                    "io.github.containers.zstd-chunked.manifest-checksum": f"sha256:{'0' * 64}",
                }
            )
        ),
        BadImage,
    ),
    "a config that is huge": (with_manifest(lambda each: each["config"].update(size=1 << 30)), LimitExceeded),
    "a config of another size": (with_manifest(lambda each: each["config"].update(size=5)), DigestMismatch),
    "a config of another size, more": (with_manifest(lambda each: each["config"].update(size=9999)), DigestMismatch),
    "a config that is a layer": (with_manifest(lambda each: each.update(config=layer_of(each))), BadImage),
    "no config": (with_manifest(lambda each: each["config"].update(digest=f"sha256:{'0' * 64}")), NotFound),
    "a config that is not JSON": (raw_config(b"\x1f\x8b" * 50), BadImage),
    "a config nested deeply": (raw_config(b'{"rootfs":' * 200_000), BadImage),
    "a config with a field twice": (raw_config(b'{"rootfs": {"diff_ids": []}, "rootfs": {"diff_ids": []}}'), BadImage),
    "no diff_ids": (with_config(lambda each: each["rootfs"].pop("diff_ids")), BadImage),
    "a diff_id too many": (
        with_config(lambda each: each["rootfs"]["diff_ids"].append(each["rootfs"]["diff_ids"][0])),
        BadImage,
    ),
    "a diff_id that is none": (with_config(lambda each: each["rootfs"].update(diff_ids=["sha256:" + "g" * 64])), BadImage),
    "a diff_id that is a path": (with_config(lambda each: each["rootfs"].update(diff_ids=["sha256:../../x"])), BadImage),
    "another diff_id": (with_config(lambda each: each["rootfs"].update(diff_ids=["sha256:" + "0" * 64])), DigestMismatch),
    "an upper-case diff_id": (
        with_config(lambda each: each["rootfs"].update(diff_ids=[each["rootfs"]["diff_ids"][0].upper()])),
        BadImage,
    ),
    "an unknown rootfs": (with_config(lambda each: each["rootfs"].update(type="base")), Unsupported),
    "indexes without end": (index_of_itself, BadImage),
    "an index of nothing for us": (wide_index, NotFound),
    "an index too long": (long_index, AlsError),
    "another manifest under the digest": (changed_manifest, DigestMismatch),
    "another config under the digest": (changed_config, DigestMismatch),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(service: Service, layout: Layout, name: str) -> None:
    make, error = CASES[name]
    make(layout)
    refused(service, layout, error)


def test_two_layers_of_one_diff_id(service: Service, layout: Layout) -> None:
    """The config says twice the same, the manifest names two blobs: whichever is read, it has to be that content."""
    good, other = layout.add_layer(tar()), layout.add_layer(TarBuilder().file("g", b"y" * 100).build())
    assert good.diff_id == f"sha256:{hashlib.sha256(tar()).hexdigest()}"
    layout.add_image("bad", [good, type(other)(other.digest, other.size, good.diff_id, other.media_type)])
    with pytest.raises(DigestMismatch):
        pull(service, layout)
    # The one that was right may stay, but nothing leads to it.
    assert all(store.published() == {} for store in service.image_stores)
    assert service.images.all() == []
    collect(service)
    assert held(service) == []


def test_an_attested_image_is_not_an_attestation(service: Service, layout: Layout) -> None:
    """BuildKit's records are listed beside images; taking one for the image would be wrong, not only useless."""
    manifest, _ = parts(layout)
    digest, size = layout.add_blob(json.dumps(manifest).encode())
    real = {"mediaType": MANIFEST, "digest": digest, "size": size, "platform": {"os": "linux", "architecture": arch()}}
    fake = {
        **real,
        "digest": f"sha256:{'0' * 64}",
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    }
    list_manifest(layout, json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [fake, real]}).encode(), INDEX)
    assert str(pull(service, layout).digest) == digest
    assert held(service) != []


def arch() -> str:
    return ARCHITECTURE.get(platform.machine(), platform.machine())
