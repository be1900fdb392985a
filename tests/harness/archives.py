"""What is in images that a client wrote: the DiffIDs of their layers, computed from the bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import zstandard

from tests.harness.system import run


def diff_ids_of_archive(path: Path) -> list[str]:
    """The sha256 of each uncompressed layer in an OCI or docker archive, bottom first."""
    with tarfile.open(path) as archive:
        files: dict[str, bytes] = {}
        for member in archive:
            stream = archive.extractfile(member) if member.isreg() else None
            if stream is not None:
                files[member.name] = stream.read()
    if "index.json" in files:
        manifest = _blob(files, json.loads(files["index.json"])["manifests"][0]["digest"])
        layers = [_blob(files, layer["digest"]) for layer in json.loads(manifest)["layers"]]
    else:
        layers = [files[name] for name in json.loads(files["manifest.json"])[0]["Layers"]]
    return [f"sha256:{hashlib.sha256(inflated(layer)).hexdigest()}" for layer in layers]


def _blob(files: dict[str, bytes], digest: str) -> bytes:
    return files["blobs/sha256/" + digest.removeprefix("sha256:")]


def inflated(layer: bytes) -> bytes:
    """A layer's tar stream."""
    if layer.startswith(b"\x1f\x8b"):
        return gzip.decompress(layer)
    if layer.startswith(b"\x28\xb5\x2f\xfd"):
        # zstd:chunked has a frame for each file, and skippable ones.
        return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(layer), read_across_frames=True).read()
    return layer


def pushed_diff_ids(reference: str, folder: Path) -> list[str]:
    """The same of an image in a registry that speaks plain HTTP; `folder` is for the archive in between."""
    archive = folder / "back.tar"
    options = ("--insecure-policy", "copy", "-q", "--src-tls-verify=false")
    run("skopeo", *options, f"docker://{reference}", f"oci-archive:{archive}")
    found = diff_ids_of_archive(archive)
    archive.unlink()
    return found
