"""One client with one kind of image, pulled through the store; beside it the same client without any store, to compare with."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness.archives import inflated
from tests.harness.podman import Binaries, Podman, Storage
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack

FIXTURES = {
    "gzip": "plain-gzip-tiny",
    "zstd": "plain-zstd-tiny",
    "chunked": "zstdchunked-skopeo122-tiny",
    "estargz": "estargz-tiny",
}
"""Each written by the format's own tool from the same two layers."""
BUSYBOX = "/busybox"
WITH_BUSYBOX = ("-v", f"/bin/busybox:{BUSYBOX}:ro")
"""The fixtures have no program of their own."""


@dataclass(frozen=True)
class Request:
    """One line of the registry's access log."""

    method: str
    path: str
    status: int


def manifest_of(layout: Path) -> tuple[str, dict[str, Any]]:
    """Digest and content of the one manifest in an OCI layout."""
    digest = str(json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"])
    return digest, blob_of(layout, digest)


def blob_of(layout: Path, digest: str) -> dict[str, Any]:
    """A JSON document of an OCI layout."""
    document: dict[str, Any] = json.loads((layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes())
    return document


def own_data(podman: Podman) -> list[Path]:
    """Files with content that a podman's own layers and containers hold: what was unpacked, or copied up."""
    files = (path for folder in (podman.graph_root / "overlay").glob("*/diff") for path in folder.rglob("*"))
    return [path for path in files if stat.S_ISREG((status := path.lstat()).st_mode) and status.st_size]


@dataclass
class Site:
    """A pulled image and who has it."""

    suite: str
    kind: str
    stack: Stack
    plain: Podman
    reference: str
    layout: Path
    truth: dict[str, Any]
    elsewhere: str
    """The address of another registry, which has nothing yet."""
    unknown: str
    """An image that als has never seen; it has the file /marker and a shell."""
    requests: list[Request] = field(default_factory=list)
    """What the registry was asked during the pull through the store."""

    @property
    def podman(self) -> Podman:
        return self.stack.podman

    @property
    def major(self) -> int:
        return self.podman.version[0]

    @property
    def by_toc(self) -> bool:
        """Whether the client identifies the image's layers by their tables of contents."""
        return self.major >= 5 and self.kind in ("chunked", "estargz")

    @property
    def digest(self) -> str:
        return manifest_of(self.layout)[0]

    @property
    def manifest(self) -> dict[str, Any]:
        return manifest_of(self.layout)[1]

    @property
    def config(self) -> dict[str, Any]:
        return blob_of(self.layout, self.manifest["config"]["digest"])

    @property
    def diff_ids(self) -> list[str]:
        return [str(diff_id) for diff_id in self.config["rootfs"]["diff_ids"]]

    @property
    def short(self) -> Path:
        """A folder with a short name."""
        return self.podman.base

    def since(self, count: int) -> list[Request]:
        """What the registry was asked after the first `count` requests."""
        return requests_since(self.stack.registry, count)

    @property
    def layer_bytes(self) -> int:
        """What the layers have together, uncompressed."""
        digests = (layer["digest"].removeprefix("sha256:") for layer in self.manifest["layers"])
        return sum(len(inflated((self.layout / "blobs/sha256" / digest).read_bytes())) for digest in digests)

    @property
    def merged(self) -> dict[str, dict[str, Any]]:
        """What a container has to see, by path."""
        return {entry["path"]: entry for entry in self.truth["merged"]}

    def run(self, script: str, *options: str) -> str:
        """What a shell script prints in a container of the image; busybox's shell has all commands built in."""
        return self.podman.run(self.reference, BUSYBOX, "sh", "-c", script, options=(*WITH_BUSYBOX, *options))

    def sums(self, *options: str) -> dict[str, str]:
        """The sha256 of every regular file that a container sees of the image, by path."""
        lines = self.run("find / -xdev -type f -exec sha256sum {} +", *options).splitlines()
        return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}

    def expected_sums(self) -> dict[str, str]:
        """The same by the truth."""
        return {path: str(entry["sha256"]) for path, entry in self.merged.items() if entry["type"] in ("file", "hardlink")}


def requests_since(registry: RegistryServer, count: int) -> list[Request]:
    """What the registry was asked after the first `count` requests."""
    return [Request(*row) for row in registry.requests()[count:]]


def blobs_sent(requests: Sequence[Request], digest: str) -> int:
    """How often a blob was downloaded, in whole or in part."""
    return sum(1 for r in requests if r.method == "GET" and r.path.endswith(f"/blobs/{digest}") and r.status in (200, 206))


def make_plain(base: Path, registry: RegistryServer, binaries: Binaries) -> Podman:
    """A podman of the same kind without als."""
    return Podman(base, Storage(insecure=(registry.address,)), binaries)
