"""A daemon, a registry whose bytes are counted, and clients that mount lazy layers as containers/storage does."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from als.model.chain import toc_chain_ids
from als.model.digest import Digest
from als.model.manifest import Manifest, parse_manifest, toc_digest
from als.mount.erofs import mount_erofs
from tests.formats.lazylayers import LazyLayer as Sample
from tests.harness.als import AlsDaemon
from tests.harness.blobproxy import BlobProxy
from tests.harness.ocilayout import Layout
from tests.harness.podman import insecure_registries
from tests.harness.registry import RegistryServer
from tests.harness.system import run, wait_until
from tests.lazily.images import stored

SETTINGS: dict[str, object] = {"layouts": ["composefs"], "lazy": "always", "record_profiles": False}
"""Small layers would be fetched whole otherwise."""
QUIET: dict[str, object] = {**SETTINGS, "background": False}
"""Nothing is fetched unless somebody asks."""
SEALING_SECONDS = 60.0


@dataclass(frozen=True)
class Lazy:
    """An image in a registry, behind a proxy."""

    reference: str
    manifest: Manifest
    diff_ids: tuple[Digest, ...]

    @property
    def tocs(self) -> list[Digest]:
        return [toc for layer in self.manifest.layers if (toc := toc_digest(layer)) is not None]

    @property
    def toc_chain(self) -> tuple[str, ...]:
        return toc_chain_ids(self.diff_ids, self.tocs)

    @property
    def blobs(self) -> list[str]:
        return [str(layer.digest) for layer in self.manifest.layers]

    @property
    def size(self) -> int:
        """Bytes of all its layers' blobs."""
        return sum(layer.size for layer in self.manifest.layers)


def described(layout: Path, reference: str, digest: str = "") -> Lazy:
    """An image of an OCI layout, by its manifest's digest; the first one if none is named."""

    def load(name: object) -> bytes:
        return (layout / "blobs" / str(name).replace(":", "/")).read_bytes()

    listed = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = parse_manifest(load(digest or listed[0]["digest"]), "application/vnd.oci.image.manifest.v1+json")
    assert isinstance(manifest, Manifest)
    diff_ids = json.loads(load(manifest.config.digest))["rootfs"]["diff_ids"]
    return Lazy(reference, manifest, tuple(Digest.parse(each) for each in diff_ids))


class Shop:
    """Makes images, puts them into a real registry, and names them as they are reached through the proxy."""

    def __init__(self, folder: Path, registry: RegistryServer, proxy: BlobProxy) -> None:
        self.layout = Layout(folder)
        self.registry = registry
        self.proxy = proxy

    def put(self, layout: str, name: str) -> str:
        """Push ``oci:DIR[:TAG]``."""
        return self.registry.push(layout, name).replace(self.registry.address, self.proxy.address)

    def image(
        self,
        name: str,
        samples: Sequence[Sample],
        diff_ids: Mapping[int, str] | None = None,
        config: dict[str, Any] | None = None,
    ) -> Lazy:
        """An image of these layers.

        :param diff_ids: what its config says of some layers instead of the truth.
        """
        truth = [stored(self.layout, sample) for sample in samples]
        layers = [replace(blob, diff_id=(diff_ids or {}).get(number, blob.diff_id)) for number, blob in enumerate(truth)]
        tag = name.replace("/", "-")
        made = self.layout.add_image(tag, layers, config)
        return described(self.layout.folder, self.put(self.layout.name(tag), f"{name}:1"), made.digest)


class Site:
    """A daemon with a store of its own below `base`, and what its clients do by themselves. A context manager.

    :param settings: of the daemon.
    :param keep: the daemon is restarted when it dies.
    :param root: of the store, if it is to be somewhere else.
    :param environment: more of it, for the daemon and all commands.
    """

    def __init__(
        self,
        base: Path,
        proxy: BlobProxy,
        settings: Mapping[str, object] = QUIET,
        *,
        keep: bool = False,
        root: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        base.mkdir(parents=True, exist_ok=True)
        self.base = base
        self.proxy = proxy
        (base / "registries.conf").write_text(insecure_registries([proxy.address]), "utf-8")
        own = {"HOME": str(base), "CONTAINERS_REGISTRIES_CONF": str(base / "registries.conf"), **(environment or {})}
        self.als = AlsDaemon(base, own, settings=settings, keep=keep, root=root)
        self._mounted = ExitStack()

    # -- as containers/storage asks

    def look_up(self, image: Lazy) -> list[Path]:
        """Ask for every layer by its table of contents, the lowest first; returns where their ``diff`` lie."""
        return [self.look_up_layer(image.reference, str(toc)) for toc in image.tocs]

    def look_up_layer(self, reference: str, digest: str) -> Path:
        """
        :raises FileNotFoundError: the layer is not served.
        """
        name = base64.b64encode(reference.encode()).decode()
        return (self.als.store / name / digest / "diff").readlink()

    def mount_by_lookup(self, image: Lazy) -> Path:
        """As podman 5.4 mounts layers of an Additional Layer Store."""
        lower: list[Path] = []
        for diff in reversed(self.look_up(image)):
            beside = [path for number in (1, 2) if (path := diff.with_name(f"diff{number}")).exists()]
            # containers/storage takes what is there: a container that missed one of them would lack it for ever.
            assert len(beside) == (1 if diff.parent.parent.name == "layers" else 2), (
                f"what was looked up is not all here: {diff}"
            )
            lower += [diff, *beside]
        return self._overlay(":".join(map(str, lower)))

    def mount_by_chain(self, image: Lazy) -> Path:
        """As podman 5.8 mounts layers of an additional image store; they have to be published."""
        upper: list[Path] = []
        data: list[Path] = []
        for chain_id in reversed(image.toc_chain):
            folder = self.als.composefs_store / "overlay" / chain_id
            target = self._folder()
            mount_erofs(folder / "composefs-data" / "composefs.blob", target)
            self._mounted.callback(_unmount, target)
            upper.append(target)
            data.append(folder.resolve() / "diff")
        return self._overlay("::".join([":".join(map(str, upper)), *map(str, data)]))

    def _overlay(self, lower: str) -> Path:
        target = self._folder()
        run("mount", "-t", "overlay", "overlay", "-o", f"ro,metacopy=on,redirect_dir=on,lowerdir={lower}", target)
        self._mounted.callback(_unmount, target)
        return target

    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="m", dir=self.base))

    @contextmanager
    def mounts(self) -> Iterator[None]:
        """What is mounted within is unmounted at the end."""
        before, self._mounted = self._mounted, ExitStack()
        try:
            with self._mounted:
                yield
        finally:
            self._mounted = before

    # -- what the daemon has

    def listed(self) -> dict[str, dict[str, Any]]:
        """The layers in the image store, by ID."""
        path = self.als.composefs_store / "overlay-layers" / "layers.json"
        return {entry["id"]: entry for entry in json.loads(path.read_bytes())} if path.exists() else {}

    def is_sealed(self, image: Lazy) -> bool:
        """Whether every layer is complete, and listed as such under both its names."""
        homes = [self.als.composefs_store / "overlay" / chain_id for chain_id in image.toc_chain]
        return all((self.als.root / "layers" / diff_id.hex / "layer.erofs").exists() for diff_id in image.diff_ids) and all(
            home.exists() and not (home / "lazy").exists() for home in homes
        )

    def wait_sealed(self, image: Lazy, deadline: float = SEALING_SECONDS) -> None:
        wait_until(lambda: self.is_sealed(image), f"sealed: {image.reference} (log: {self.als.log_text()[-3000:]})", deadline)

    def fill(self) -> None:
        """Restart the daemon so that it fetches the rest unasked."""
        self.als.stop()
        self.als.configure(background=True)
        self.als.start()

    def lazy_files(self) -> int:
        """How many files of lazy layers are in the stores' own forests, that is, complete."""
        return sum(len(os.listdir(forest)) for forest in self.als.root.glob("lazy/*/diff1/.als"))

    def part_bytes(self) -> int:
        """What incomplete files of lazy layers take on disk."""
        return sum(part.stat().st_blocks * 512 for part in self.als.root.glob("lazy/*/parts/*"))

    def __enter__(self) -> Site:
        self.als.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._mounted.close()
        self.als.close()
        # pytest shows it of a test that failed.
        print(self.als.log_text()[-6000:])


def _unmount(target: Path) -> None:
    run("umount", "-l", target, status=None)
