"""Images that lie about what nothing commits to yet: their DiffID, and the sha256 of a file whose chunks say something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from als.model.chain import chain_ids
from tests.formats.lazylayers import LazyLayer as Sample
from tests.formats.lazylayers import sha256
from tests.formats.tocbuilder import Writer, file, finish_estargz, finish_podman, folder, gzip_member, zstd_frame
from tests.harness.system import wait_until
from tests.lazily.conftest import Open
from tests.lazily.images import FLAVOURS, contents, layer
from tests.lazily.site import SETTINGS, Lazy, Shop, Site
from tests.lazy.site import noise

BOTH = pytest.mark.parametrize("flavour", FLAVOURS)
FILES = {**contents(5, 40_000, seed=900), "d/tool": b"#!/bin/sh\necho honest\n" + noise(50_000, 950)}
EVIL = {**contents(5, 40_000, seed=800), "d/tool": b"#!/bin/sh\necho evil\n" + noise(50_000, 850)}
CHUNK = 20_000


def assert_honest(site: Site, image: Lazy, files: dict[str, bytes]) -> None:
    """By either way in which clients mount."""
    site.look_up(image)
    for mount in (site.mount_by_lookup, site.mount_by_chain):
        with site.mounts():
            root = mount(image)
            assert all((root / name).read_bytes() == data for name, data in files.items())


@BOTH
@pytest.mark.parametrize("how", ["lazily", "whole"])
def test_somebody_elses_diff_id(opened: Open, shop: Shop, flavour: str, how: str) -> None:
    name = f"{flavour.replace(':', '-')}-{how}"
    honest = shop.image(f"popular-{name}", [layer(flavour, FILES)])
    evil = shop.image(f"evil-{name}", [layer(flavour, EVIL)], {0: str(honest.diff_ids[0])})
    assert evil.diff_ids == honest.diff_ids
    site = opened()
    site.look_up(evil)
    (plain,) = chain_ids(honest.diff_ids)
    listed = site.listed()
    assert set(listed) == set(evil.toc_chain), "only by what the manifest commits to"
    assert plain not in listed
    entry = listed[evil.toc_chain[0]]
    assert not {"diff-digest", "compressed-diff-digest"} & set(entry), "these would be claims"
    with site.mounts():
        assert (site.mount_by_chain(evil) / "d/tool").read_bytes() == EVIL["d/tool"], "to whoever asked for this image"
    site.fill()
    wait_until(lambda: "not what its image promises" in site.als.log_text(), "it is found out", 30)
    assert site.listed() == {}
    assert str(honest.diff_ids[0]) in site.als.log_text()
    assert evil.blobs[0] in site.als.log_text()
    assert not list((site.als.root / "layers").iterdir())
    with pytest.raises(FileNotFoundError):
        site.look_up(evil)
    if how == "whole":
        site.als.cli("pull", "-q", honest.reference)
    assert_honest(site, honest, FILES)
    site.wait_sealed(honest)
    assert_honest(site, honest, FILES)
    assert plain in site.listed()
    site.als.stop()
    site.als.start()
    with pytest.raises(FileNotFoundError):
        site.look_up(evil)
    assert_honest(site, honest, FILES)


def renamed(flavour: str, claimed: bytes, real: bytes, beside: dict[str, bytes]) -> Sample:
    """A layer whose table of contents gives ``d/victim`` the sha256 of `claimed`, and the chunks of `real`."""
    made = Writer(gzip_member if flavour == "estargz" else zstd_frame, CHUNK, headers_apart=flavour != "estargz")
    made.add(*folder("d"))
    for name, data in {"d/victim": real, **beside}.items():
        made.add(*file(name, data, mode=0o644))
    (row,) = (row for row in made.rows if row["name"] == "d/victim" and row["type"] == "reg")
    assert row["digest"] == sha256(real)
    row["digest"] = sha256(claimed)
    if flavour == "estargz":
        return finish_estargz(made)
    made.end()
    return finish_podman(made)


@BOTH
@pytest.mark.parametrize("first", ["honest", "hostile"])
def test_the_name_of_somebody_elses_file(opened: Open, shop: Shop, flavour: str, first: str) -> None:
    """An inode is what the chunks say: two files that both call themselves by one sha256 do not share a page."""
    name = f"{flavour.replace(':', '-')}-{first}"
    right, wrong = noise(3 * CHUNK, 11), noise(3 * CHUNK, 12)
    others = contents(3, 30_000, seed=700)
    honest = shop.image(f"honest-{name}", [renamed(flavour, right, right, contents(2, 30_000, seed=750))])
    hostile = shop.image(f"hostile-{name}", [renamed(flavour, right, wrong, others)])
    site = opened()
    images = {"honest": honest, "hostile": hostile}
    order = [first, *({*images} - {first})]
    for which in order:
        site.look_up(images[which])
    roots: dict[str, Path] = {which: site.mount_by_lookup(image) for which, image in images.items()}
    for which in order:
        with (roots[which] / "d/victim").open("rb", buffering=0) as victim:
            found = victim.read(CHUNK // 2)
        if which == "honest":
            assert found == right[: CHUNK // 2]
        else:
            assert found in (wrong[: CHUNK // 2], right[: CHUNK // 2]), "its own, or what it says that it is"
    assert (roots["honest"] / "d/victim").read_bytes() == right
    site.fill()
    site.wait_sealed(honest)
    assert_honest(site, honest, {"d/victim": right})
    assert site.als.object_path(sha256(right).removeprefix("sha256:")).read_bytes() == right
    assert not site.is_sealed(hostile)


def test_what_is_refused_is_refused_for_ever(opened: Open, shop: Shop) -> None:
    """Also by a daemon that has begun to fetch it whole, and by one that was started anew; other images go on."""
    honest = shop.image("others", [layer("zstd:chunked", FILES)])
    evil = shop.image("refused", [layer("zstd:chunked", EVIL)], {0: sha256(b"nobody's")})
    site = opened(SETTINGS)
    site.look_up(evil)
    wait_until(lambda: "not served any more" in site.als.log_text(), "it is refused", 30)
    asked = site.proxy.asked_bytes(*evil.blobs)
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            site.look_up(evil)
        site.als.stop()
        site.als.start()
    again = site.proxy.asked_bytes(*evil.blobs) - asked
    print(f"asked {asked} bytes of {len(evil.blobs)} blob of {evil.size} before it was refused, {again} after that")
    site.look_up(honest)
    site.wait_sealed(honest)
    assert_honest(site, honest, FILES)
