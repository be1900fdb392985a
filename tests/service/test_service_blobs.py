"""A layer is known by a blob only after als has seen that the blob holds it, whatever manifest and config say."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.errors import Abandoned, AlsError, BadImage, DigestMismatch, NotFound
from als.fuse.layers import StoreBackend
from als.imagestore.records import PublishedLayer
from als.model.digest import Digest
from als.model.manifest import Descriptor
from als.model.reference import parse_reference
from als.service import Service
from als.service.fsck import Remedy
from als.service.recovery import recover
from als.service.repair import fsck
from als.store.images import ImageRecord
from tests.harness.gated import GatedRegistry
from tests.harness.ocilayout import LayerBlob, Layout, TarBuilder
from tests.harness.system import wait_until

HONEST = TarBuilder().directory("srv").file("srv/text", b"honest" * 5000).build()
EVIL = TarBuilder().directory("srv").file("srv/text", b"wicked" * 5000).build()


def pull(service: Service, layout: Layout, tag: str, *layers: LayerBlob) -> ImageRecord:
    layout.add_image(tag, layers)
    return service.pull(parse_reference(layout.name(tag)))


def recompressed(layout: Layout, tar: bytes, how: str) -> LayerBlob:
    """The same stream as ``add_layer(tar)``, as another blob."""
    if how != "gzip":
        return layout.add_layer(tar, how)
    digest, size = layout.add_blob(gzip.compress(tar, 1))
    return dataclasses.replace(layout.add_layer(tar), digest=digest, size=size)


def claiming(blob: LayerBlob, layer: LayerBlob) -> LayerBlob:
    """What only an attacker writes: that blob beside that layer's DiffID."""
    return dataclasses.replace(blob, diff_id=layer.diff_id)


def listed(service: Service) -> set[str]:
    """Every blob by which the image stores list a layer."""
    entries = [entry for store in service.image_stores for entry in store.published().values()]
    return {str(entry["compressed-diff-digest"]) for entry in entries if "compressed-diff-digest" in entry}


def forget_blobs(service: Service, *digests: str) -> None:
    """Make layers' records what they were before blobs were noted."""
    for digest in digests:
        path = service.layout.layer(Digest.parse(digest)) / "layer.json"
        record = json.loads(path.read_bytes())
        del record["blobs"]
        path.write_text(json.dumps(record))


def inodes(folder: Path) -> set[int]:
    return {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


class Watcher:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.bytes = 0

    def begins(self, layer: Descriptor) -> None:
        self.told.append(("begins", str(layer.digest)))

    def advances(self, layer: Descriptor, count: int) -> None:
        self.bytes += count

    def done(self, layer: Descriptor, *, fetched: bool) -> None:
        self.told.append(("fetched" if fetched else "here", str(layer.digest)))


@pytest.mark.parametrize("how", ["gzip", "zstd", "none"])
def test_the_same_layer_in_another_blob(service: Service, layout: Layout, how: str) -> None:
    """It is fetched once to see that, and never stored again."""
    first = layout.add_layer(HONEST)
    again = recompressed(layout, HONEST, how)
    assert again.digest != first.digest and again.diff_id == first.diff_id
    one = pull(service, layout, "one", first)
    before = inodes(service.layout.objects) | inodes(service.layout.layers)
    watcher = Watcher()
    layout.add_image("two", [again])
    two = service.pull(parse_reference(layout.name("two")), watcher)
    record = service.layers.get(two.config.diff_ids[0])
    if how == "none":
        assert watcher.told == [("here", again.digest)], "an uncompressed blob is the stream: there is nothing to look at"
        assert record.blobs == (Digest.parse(first.digest),)
    else:
        assert watcher.told == [("begins", again.digest), ("fetched", again.digest)]
        assert watcher.bytes == again.size
        assert record.blobs == (Digest.parse(first.digest), Digest.parse(again.digest))
    assert service.layers.ids() == [Digest.parse(first.diff_id)]
    new = (inodes(service.layout.objects) | inodes(service.layout.layers)) - before
    assert new <= {(service.layout.layer(record.diff_id) / "layer.json").stat().st_ino}
    assert os.listdir(service.layout.tmp) == []
    for image, blob in ((one, first), (two, again)):
        served = service.serve_layer("h/x:1", Digest.parse(blob.digest), image, 0)
        assert served.info()["compressed-diff-digest"] == blob.digest
        assert served.info()["compressed-size"] == blob.size
    watcher = Watcher()
    layout.blob(again.digest).unlink()
    service.pull(parse_reference(layout.name("two")), watcher)
    assert watcher.told == [("here", again.digest)], "it is remembered"
    assert fsck(service, deep=True).found == ()


@pytest.mark.parametrize("first", ["evil", "honest"])
def test_a_stranger_s_blob_beside_one_s_own_diff_id(service: Service, layout: Layout, first: str) -> None:
    honest, evil = layout.add_layer(HONEST), layout.add_layer(EVIL)
    if first == "honest":
        pull(service, layout, "honest", honest)
    pull(service, layout, "evil", evil)
    # In a place of its own in the lists: one that is taken already is not written again.
    below = layout.add_layer(TarBuilder().directory("opt").build())
    pull(service, layout, "below", below)
    layout.add_image("attack", [below, claiming(honest, evil)])
    before = listed(service)
    for _ in range(2):
        with pytest.raises(DigestMismatch) as caught:
            service.pull(parse_reference(layout.name("attack")))
        assert layout.name("attack") in caught.value.where and honest.digest in caught.value.where
        assert honest.diff_id in caught.value.what and evil.diff_id in caught.value.what
    assert listed(service) == before
    assert service.ref_of(layout.name("attack")) is None
    assert service.layers.get(Digest.parse(evil.diff_id)).blobs == (Digest.parse(evil.digest),)
    pulled = pull(service, layout, "honest", honest)
    for store in service.image_stores:
        by_blob = [entry for entry in store.published().values() if entry.get("compressed-diff-digest") == honest.digest]
        assert [entry["diff-digest"] for entry in by_blob] == [honest.diff_id]
    assert service.layer_of(pulled, 0).blob == Digest.parse(honest.digest)
    assert fsck(service, deep=True).found == ()


def test_an_image_that_names_a_layer_by_two_blobs(service: Service, layout: Layout) -> None:
    """It is ready, and known, only when both were seen to hold it."""
    honest, evil = layout.add_layer(HONEST), layout.add_layer(EVIL)
    layout.add_image("attack", [claiming(honest, evil), evil])
    with pytest.raises(DigestMismatch):
        service.pull(parse_reference(layout.name("attack")))
    assert service.images.refs() == [] and honest.digest not in listed(service)
    image = pull(service, layout, "fine", honest, recompressed(layout, HONEST, "zstd"))
    assert len(service.layers.get(image.config.diff_ids[0]).blobs) == 2
    assert [service.layer_of(image, index).blob for index in (0, 1)] == [layer.digest for layer in image.manifest.layers]


def damaged(layout: Layout, how: str) -> LayerBlob:
    """A blob that does not hold the honest layer, or that is not what its digest promises."""
    layer = recompressed(layout, HONEST, "gzip")
    data = layout.blob(layer.digest).read_bytes()
    if how == "flipped":
        layout.blob(layer.digest).write_bytes(data[:99] + bytes([data[99] ^ 4]) + data[100:])
    elif how == "cut":
        layout.blob(layer.digest).write_bytes(data[:-9])
    elif how == "absent":
        layout.blob(layer.digest).unlink()
    else:
        stream = {
            "shorter": HONEST[:-1024],
            "longer": HONEST + bytes(1024),
            "much longer": HONEST + bytes(64 << 20),
            "empty": b"",
            "a bit": HONEST[:700] + bytes([HONEST[700] ^ 1]) + HONEST[701:],
        }[how]
        digest, size = layout.add_blob(gzip.compress(stream, 1))
        layer = dataclasses.replace(layer, digest=digest, size=size)
    return layer


@pytest.mark.parametrize("how", ["flipped", "cut", "absent", "shorter", "longer", "much longer", "empty", "a bit"])
def test_blobs_that_do_not_hold_the_layer(service: Service, layout: Layout, how: str) -> None:
    pull(service, layout, "one", layout.add_layer(HONEST))
    bad = damaged(layout, how)
    layout.add_image("bad", [bad])
    with pytest.raises(NotFound if how == "absent" else (DigestMismatch, BadImage)) as caught:
        service.pull(parse_reference(layout.name("bad")))
    assert layout.name("bad") in caught.value.where
    assert len(service.layers.get(Digest.parse(bad.diff_id)).blobs) == 1
    assert bad.digest not in listed(service)
    assert os.listdir(service.layout.tmp) == []


def test_nobody_waits_any_more(service: Service, layout: Layout) -> None:
    pull(service, layout, "one", layout.add_layer(HONEST))
    again = recompressed(layout, HONEST, "zstd")
    layout.add_image("two", [again])
    with pytest.raises(Abandoned):
        service.pull(parse_reference(layout.name("two")), given_up=lambda: True)
    assert len(service.layers.get(Digest.parse(again.diff_id)).blobs) == 1


def test_two_pulls_at_once_look_once(service: Service, layout: Layout) -> None:
    pull(service, layout, "one", layout.add_layer(HONEST))
    again = recompressed(layout, HONEST, "zstd")
    watchers = [Watcher() for _ in range(4)]
    for number in range(4):
        layout.add_image(f"t{number}", [again], {"Labels": {"number": str(number)}})
    failures: list[AlsError] = []

    def run(number: int) -> None:
        try:
            service.pull(parse_reference(layout.name(f"t{number}")), watchers[number])
        except AlsError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert [told for watcher in watchers for told in watcher.told].count(("begins", again.digest)) == 1
    assert len(service.layers.get(Digest.parse(again.diff_id)).blobs) == 2


@pytest.fixture
def registry(layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[GatedRegistry]:
    with GatedRegistry(layout) as server:
        conf = tmp_path / "registries.conf"
        conf.write_text(f'[[registry]]\nlocation = "{server.address}"\ninsecure = true\n')
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        yield server


def test_a_lookup_of_what_was_never_verified(service: Service, layout: Layout, registry: GatedRegistry) -> None:
    """A store from before: the image is known, its layer is here, and the lookup has the blob looked at."""
    blob = layout.add_layer(HONEST)
    layout.add_image("t", [blob])
    backend, reference = StoreBackend(service), f"{registry.address}/any/x:t"
    assert backend.lookup(reference, blob.digest) is not None
    forget_blobs(service, blob.diff_id)
    asked = registry.blobs_asked().count(blob.digest)
    found = backend.lookup(reference, blob.digest)
    assert found is not None and json.loads(found.info)["compressed-diff-digest"] == blob.digest
    assert registry.blobs_asked().count(blob.digest) == asked + 1
    wait_until(lambda: service.layers.get(Digest.parse(blob.diff_id)).blobs != (), "the blob is noted")
    assert backend.lookup(reference, blob.digest) is not None
    assert registry.blobs_asked().count(blob.digest) == asked + 1


def test_what_a_client_has_already_stays(service: Service, layout: Layout, registry: GatedRegistry) -> None:
    """Without a look at the blob, and without the registry, which may be gone; but it is no longer said to be that blob."""
    blob = layout.add_layer(HONEST)
    layout.add_image("t", [blob])
    backend, reference = StoreBackend(service), f"{registry.address}/any/x:t"
    assert backend.lookup(reference, blob.digest) is not None
    backend.use(reference, blob.digest)
    forget_blobs(service, blob.diff_id)
    asked = list(registry.asked)
    found = backend.lookup(reference, blob.digest)
    assert registry.asked == asked
    assert found is not None and "compressed-diff-digest" not in json.loads(found.info)
    image = service.find(reference)
    with pytest.raises(NotFound, match="not known to be"):
        service.serve_layer("h/other:1", Digest.parse(blob.digest), image, 0)


def test_lists_from_before(service: Service, layout: Layout) -> None:
    """`als fsck` finds what nobody verified, `--repair` no longer lists it, and pulling again does, from the blob itself."""
    one, two = layout.add_layer(HONEST), layout.add_layer(TarBuilder().file("x", b"x" * 99).build())
    pull(service, layout, "t", one, two)
    before = {store.layout: store.published() for store in service.image_stores}
    forget_blobs(service, two.diff_id)
    found = fsck(service).found
    assert {(problem.layout, problem.remedy) for problem in found} == {("composefs", Remedy.RESTATE), ("diffN", Remedy.RESTATE)}
    assert all(two.digest in problem.what for problem in found)
    places = {chain: service.diff_n.folder(chain).stat().st_ino for chain in service.diff_n.published()}
    assert fsck(service, repair=True).remaining == ()
    assert listed(service) == {one.digest}
    assert {chain: service.diff_n.folder(chain).stat().st_ino for chain in service.diff_n.published()} == places
    again = service.pull(parse_reference(layout.name("t")))
    assert {store.layout: store.published() for store in service.image_stores} == before
    assert service.layer_of(again, 1).blob == Digest.parse(two.digest)
    assert fsck(service, deep=True).found == ()


def test_a_list_made_anew_names_no_unverified_blob(service: Service, layout: Layout) -> None:
    blob = layout.add_layer(HONEST)
    image = pull(service, layout, "t", blob)
    forget_blobs(service, blob.diff_id)
    service.diff_n.unpublish(image.chain)
    recover(service)
    entry = service.diff_n.published()[image.chain[0]]
    assert "compressed-diff-digest" not in entry and PublishedLayer.from_json(entry).blob is None
