"""The images of the benchmark of lazy pulling: one with Debian and Python, and one with large files; each in every format.

eStargz is made by containerd's converter, zstd:chunked by skopeo: what their users have. All is kept in .cache.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.debian import debian_image
from tests.harness.demo import CACHE
from tests.harness.demo_images import demo_images
from tests.harness.ocilayout import EPOCH, REF_NAME, LayerBlob, Layout
from tests.harness.registry import RegistryServer
from tests.harness.system import run

LARGE_FILE = "data/large"
LARGE_BYTES = 400_000_000


@dataclass(frozen=True)
class Formats:
    """References of one image in a registry. Where a converter is not here, the image is not there in its format."""

    plain: str
    estargz: str = ""
    zstd_chunked: str = ""


@dataclass(frozen=True)
class Tools:
    """Programs of others."""

    estargz_convert: Path | None
    skopeo: Path | None
    """One that writes zstd:chunked: 1.15 or later."""


def push(registry: RegistryServer, image: str, name: str, tools: Tools, cache: Path) -> Formats:
    """Put an image (``oci:DIR:TAG``) into the registry in each format."""
    plain = registry.push(image, f"{name}:plain")
    estargz = zstd_chunked = ""
    if tools.estargz_convert is not None:
        estargz = registry.push(_as_estargz(image, name, tools.estargz_convert, cache), f"{name}-estargz:latest")
    if tools.skopeo is not None:
        zstd_chunked = f"{registry.address}/{name}-zstd:latest"
        # A repository of its own: a registry that has the layer in another compression would have it used instead.
        options = ("--dest-compress-format", "zstd:chunked", "--dest-force-compress-format", "--dest-tls-verify=false")
        run(tools.skopeo, "--insecure-policy", "copy", "-q", *options, image, f"docker://{zstd_chunked}", deadline=600)
    return Formats(plain, estargz, zstd_chunked)


def _as_estargz(image: str, name: str, converter: Path, cache: Path) -> str:
    """The converter wants a layout with this image alone, and tags what it makes ``estargz``."""
    folder = cache / f"{name}-estargz-{_state(image)}"
    if not folder.exists():
        source, staging = cache / f"{name}-source", cache / f"{name}-staging"
        for each in (source, staging):
            shutil.rmtree(each, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        run("skopeo", "--insecure-policy", "copy", "-q", image, f"oci:{source}:latest", deadline=600)
        run(converter, "estargz", source, staging, deadline=1200)
        shutil.rmtree(source)
        staging.rename(folder)
    return f"oci:{folder}:estargz"


def _state(image: str) -> str:
    """Changes with the image's name and with what its layout lists."""
    index = Path(image.split(":")[1]) / "index.json"
    return hashlib.sha256(image.encode() + (index.read_bytes() if index.exists() else b"")).hexdigest()[:12]


def usual_image() -> str:
    """Debian with Python, about 200 MB; an image of the demo where Debian's own cannot be made."""
    return debian_image(CACHE / "bench") or demo_images(CACHE).layout.name("first")


def large_image(base: str, cache: Path) -> str:
    """An image with one more layer: a large file that does not compress."""
    layout = Layout(cache / f"large-{_state(base)}")
    tag = f"large-{LARGE_BYTES}"
    if not layout.has(tag):
        run("skopeo", "--insecure-policy", "copy", "-q", base, f"oci:{layout.folder}:base", deadline=600)
        layout.add_image(tag, [*_layers_of(layout, "base"), layout.add_layer(_write_large)])
    return layout.name(tag)


def _layers_of(layout: Layout, tag: str) -> list[LayerBlob]:
    index = json.loads((layout.folder / "index.json").read_bytes())
    digest = next(entry["digest"] for entry in index["manifests"] if entry["annotations"][REF_NAME] == tag)
    manifest = json.loads(layout.blob(digest).read_bytes())
    diff_ids = json.loads(layout.blob(manifest["config"]["digest"]).read_bytes())["rootfs"]["diff_ids"]
    return [
        LayerBlob(layer["digest"], layer["size"], diff_id, layer["mediaType"])
        for layer, diff_id in zip(manifest["layers"], diff_ids, strict=True)
    ]


def _write_large(out: IO[bytes]) -> None:
    numbers = random.Random(7)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(LARGE_FILE)
        info.size, info.mtime = LARGE_BYTES, EPOCH
        tar.addfile(info, _Noise(numbers))


class _Noise:
    """To be read."""

    def __init__(self, numbers: random.Random) -> None:
        self._numbers = numbers

    def read(self, size: int = -1, /) -> bytes:
        return self._numbers.randbytes(size)
