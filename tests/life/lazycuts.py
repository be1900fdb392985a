"""Power cuts of a store whose daemon shows layers before they are here, fills them, and seals them.

After each cut the daemon starts where it reaches no registry: what was complete must not need one. See
:mod:`tests.life.powercuts`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.harness.powercut import Recording, after_cut
from tests.lazily.images import layer
from tests.lazily.site import QUIET, Shop, Site
from tests.lazy.site import noise
from tests.life.history import History

_SHARED = {f"d/shared{number}": noise(25_000 + number, number) for number in range(5)}
_OWN = {
    "one": ("estargz", {f"d/one{number}": noise(70_000, 40 + number) for number in range(3)}),
    "two": ("zstd:chunked", {f"d/two{number}": noise(200_000 * number, 80 + number) for number in range(1, 3)}),
}


class LazyScene:
    """A daemon's store on a recorded disk.

    :ivar shown: images that the store has, however much of them is here.
    :ivar complete: those of which everything is here.
    """

    def __init__(self, disk: Recording, shop: Shop, folder: Path) -> None:
        self.shown = History()
        self.complete = History()
        self._disk = disk
        self._proxy = shop.proxy
        self._folder = folder
        self._files = {name: {**_SHARED, **own} for name, (_, own) in _OWN.items()}
        shared = layer("zstd:chunked", _SHARED)
        self._images = {name: shop.image(f"cut-{name}", [shared, layer(*_OWN[name])]) for name in _OWN}

    def play(self) -> None:
        """Layers are shown, read in part, found again by the next daemon, filled, sealed and removed; also at once."""
        with self._site() as site:
            self._show(site, "one", "d/shared1")
            site.als.stop()
            site.als.start()
            self._complete(site, "one")
            self._show(site, "two", "d/two1")
            self._remove(site, "one")
            site.als.cli("gc")
            self._show(site, "one", "d/one1")
            self._complete(site, "two")
            self._remove(site, "two")
            site.als.cli("gc")
            self._complete(site, "one")
            # Folders of layers that were lazy.
            site.als.cli("gc")
            self._show(site, "two", "d/two2")

    def _site(self) -> Site:
        return Site(self._folder, self._proxy, QUIET, root=self._disk.point / "a")

    def _show(self, site: Site, name: str, path: str) -> None:
        """A client looks the image up, and a container reads the beginning of a file."""
        site.look_up(self._images[name])
        self.shown.begins(name, self._disk.position())
        assert not site.is_sealed(self._images[name]), "it is lazy"
        with site.mounts(), (site.mount_by_chain(self._images[name]) / path).open("rb") as file:
            file.read(100)

    def _complete(self, site: Site, name: str) -> None:
        site.als.cli("wait", "-q", self._images[name].reference)
        self.complete.begins(name, self._disk.position())

    def _remove(self, site: Site, name: str) -> None:
        self.shown.ends(name, self._disk.position())
        self.complete.ends(name, self._disk.position())
        site.als.cli("rm", self._images[name].reference)

    def check(self, cut: int, seed: int) -> str:
        """Cut the power, start again, and look; returns what there was."""
        shown, complete = self.shown.promised(cut), self.complete.promised(cut)
        for left in (self._folder / "run").iterdir():
            # A boot empties it.
            if left.is_file():
                left.unlink()
        with after_cut(self._disk, cut, seed), ExitStack() as away:
            if not (self._disk.point / "a").is_dir():
                assert not shown, f"cut at {cut}"
                return ""
            self._proxy.stop()
            away.callback(self._proxy.start)
            try:
                with self._site() as site:
                    self._check_without_network(site, shown, complete)
                    away.close()
                    self._check_with_network(site, shown)
            except AssertionError as error:
                raise AssertionError(f"cut at {cut}: {error}") from error
        return f"cut at {cut}: {len(complete)} images were complete, {len(shown)} were shown"

    def _check_without_network(self, site: Site, shown: set[str], complete: set[str]) -> None:
        found = {ref["reference"] for ref in site.als.json("images")}
        missing = {name for name in shown if self._images[name].reference not in found}
        assert not missing, f"{missing} lost"
        self._check_soundness(site)
        # A lazy layer that nobody was shown yet may be torn; whether one of `shown` is, is seen when it is read.
        quarantined = [path.name for path in site.als.root.glob("quarantine/*") if "-lazy-" not in path.name]
        assert not quarantined, f"in quarantine: {quarantined}"
        for name in complete:
            assert site.is_sealed(self._images[name]), f"{name} is not complete"
            self._check_content(site, name)

    def _check_with_network(self, site: Site, shown: set[str]) -> None:
        for name in shown:
            self._check_content(site, name)
        for name, image in self._images.items():
            site.look_up(image)
            site.als.cli("wait", "-q", image.reference)
            assert site.is_sealed(image), name
            self._check_content(site, name)
        site.als.cli("gc")
        self._check_soundness(site)

    def _check_content(self, site: Site, name: str) -> None:
        """As a container sees it."""
        with site.mounts():
            root = site.mount_by_chain(self._images[name])
            found: Mapping[str, bytes] = {path: (root / path).read_bytes() for path in self._files[name]}
            assert found == self._files[name], f"{name} reads wrong"

    @staticmethod
    def _check_soundness(site: Site) -> None:
        report = json.loads(site.als.cli("fsck", "--deep", "--json", status=None).stdout)
        wrong = [f"{each['kind']} {each['name']}: {each['what']}" for each in report["found"]]
        assert not wrong, str(wrong)
