"""What is done to a store while its disk writes everything down, and what must hold after the power was cut at any point of it.

``python -m tests.life.powercuts POINTS [--seed N] [--kind ext4|xfs]`` is the long form, a part of ``make soak``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from als.config import LAYOUTS, Config
from als.errors import AlsError
from als.model.reference import parse_reference
from als.service import Service
from als.service.recovery import recover
from als.service.removal import collect, remove
from als.service.repair import fsck
from tests.formats.tocbuilder import estargz, file
from tests.harness.blobproxy import BlobProxy
from tests.harness.ocilayout import LayerBlob, Layout
from tests.harness.powercut import Recording, after_cut, cuts, recording
from tests.harness.registry import RegistryServer
from tests.lazily.site import Shop
from tests.life.history import History, policy
from tests.life.lazycuts import LazyScene
from tests.life.stores import layer


def make_images(layout: Layout) -> list[str]:
    """Images that overlap; one has a table of contents."""
    toc = estargz([file("toc", b"toc" * 5000)])
    digest, size = layout.add_blob(toc.blob)
    annotated = LayerBlob(digest, size, toc.diff_id, toc.descriptor.media_type, dict(toc.descriptor.annotations))
    layout.add_image("one", [layer(layout, "a"), layer(layout, "b", files=40)])
    layout.add_image("two", [layer(layout, "a"), annotated])
    layout.add_image("tall", [layer(layout, "a"), *(layer(layout, f"t{number}", files=1) for number in range(9))])
    return [layout.name(tag) for tag in ("one", "two", "tall")]


def configured(root: Path, folder: Path) -> Config:
    return Config(root=root, run=folder / "run", worker_user="65534", layouts=LAYOUTS)


class Scene:
    """A store on a recorded disk."""

    def __init__(self, disk: Recording, references: list[str], folder: Path) -> None:
        self.history = History()
        self._disk = disk
        self._references = references
        self._folder = folder

    def play(self) -> None:
        """Pulls, removals, gc, and clients that take and drop layers."""
        with Service(configured(self._disk.point / "a", self._folder)) as service:
            one, two, tall = self._references
            self._pull(service, one)
            self._count(service, one, +1)
            self._pull(service, two)
            self._remove(service, one)
            self._count(service, one, +1)
            collect(service)
            self._pull(service, tall)
            self._count(service, one, -1)
            self._count(service, one, -1)
            self._remove(service, tall)
            collect(service)
            self._pull(service, one)
            self._pull(service, tall)

    def _pull(self, service: Service, reference: str) -> None:
        service.pull(parse_reference(reference), asked=True)
        self.history.begins(reference, self._disk.position())

    def _remove(self, service: Service, reference: str) -> None:
        self.history.ends(reference, self._disk.position())
        remove(service, reference)

    def _count(self, service: Service, reference: str, by: int) -> None:
        begin = self._disk.position()
        count = service.uses.change(reference, "sha256:" + "0" * 64, by)
        self.history.counts.append((begin, self._disk.position(), count))

    def check(self, cut: int, seed: int) -> str:
        """Cut the power, start again, and look; returns what there was."""
        config = configured(self._disk.point / "a", self._folder)
        (config.run / "checked").unlink(missing_ok=True)
        with after_cut(self._disk, cut, seed):
            if not config.root.is_dir():
                assert not self.history.promised(cut)
                return ""
            with Service(config) as service:
                recover(service)
                promised = self.history.promised(cut)
                found = {ref.reference for ref in service.images.refs()}
                assert promised <= found, f"cut at {cut}: {promised - found} lost"
                assert service.uses.count(self._references[0], "sha256:" + "0" * 64) in self.history.possible_counts(cut)
                wrong = [f"{each.kind} {each.name}: {each.what}" for each in fsck(service, deep=True).found]
                assert not wrong, f"cut at {cut}: {wrong}"
                quarantined = os.listdir(service.layout.quarantine) if service.layout.quarantine.exists() else []
                assert not quarantined, f"cut at {cut}: {quarantined}"
                for reference in promised:
                    image = service.find(reference)
                    for store in service.image_stores:
                        assert all(store.is_ready(chain) for chain in image.chain), f"cut at {cut}: {reference}"
                for reference in self._references:
                    service.pull(parse_reference(reference), asked=True)
                collect(service)
                assert fsck(service, deep=True).found == (), f"cut at {cut}, after the next pulls"
                return f"cut at {cut}: {len(promised)} images were complete"


def play(disk: Recording, base: Path) -> Scene:
    """Everything that is done to a store without a daemon."""
    scene = Scene(disk, make_images(Layout(base / "oci")), base)
    scene.play()
    return scene


def play_lazily(disk: Recording, base: Path, registry: RegistryServer, proxy: BlobProxy) -> LazyScene:
    """And to a daemon's."""
    scene = LazyScene(disk, Shop(base / "lazy-oci", registry, proxy), base / "site")
    scene.play()
    return scene


def main() -> int:
    """Cut the power at so many points; 0 if everything that was promised was there each time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("points", type=int, help="half of them without a daemon, half of them with lazy layers")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--only", choices=("plain", "lazy"), help="all of them of one half")
    parser.add_argument("--kind", choices=("ext4", "xfs"), default="ext4")
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")
    with tempfile.TemporaryDirectory(prefix="als-", dir="/var/tmp") as name, ExitStack() as stack:
        base = Path(name)
        policy(base / "home")
        os.environ["HOME"] = str(base / "home")
        registry = stack.enter_context(RegistryServer(base / "registry"))
        proxy = stack.enter_context(BlobProxy(registry.address))
        plays: dict[str, Callable[[Recording], Scene | LazyScene]] = {
            "plain": lambda disk: play(disk, base),
            "lazy": lambda disk: play_lazily(disk, base, registry, proxy),
        }
        chosen = [options.only] if options.only else list(plays)
        lost = 0
        for each in chosen:
            with recording(base / each, options.kind) as disk, contextlib.redirect_stdout(io.StringIO()):
                scene = plays[each](disk)
            lost += _cut_all(scene.check, each, cuts(disk, options.points // len(chosen), options.seed), options.seed)
    return 1 if lost else 0


def _cut_all(check: Callable[[int, int], str], scene: str, positions: list[int], seed: int) -> int:
    """How many of these cuts lost something."""
    failures = 0
    for cut in positions:
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                check(cut, seed)
        except (AssertionError, AlsError, RuntimeError, OSError) as error:
            failures += 1
            sys.stdout.write(f"ERROR {error}\n{said.getvalue()}\n")
    sys.stdout.write(f"{scene}: {len(positions):6} power cuts, {failures} after which something was lost\n")
    return failures


if __name__ == "__main__":
    sys.exit(main())
