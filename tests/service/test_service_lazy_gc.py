"""What becomes of lazy layers when nobody wants them any more."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.errors import BadImage, DigestMismatch, StoreError
from als.model.chain import chain_id, toc_chain_id
from als.model.digest import Digest
from als.model.manifest import toc_digest
from als.mount.erofs import mount_erofs
from als.mount.table import find_mount
from als.mount.unmounting import unmount
from als.service import Service
from als.service.fsck import Remedy
from als.service.removal import Garbage, collect, remove, survey
from als.service.repair import fsck
from als.store.images import RefRecord
from als.store.lazyfolders import keys
from als.store.liveness import Claims, Holder, Published, decide
from tests.formats.tocbuilder import estargz, file, zstd_podman
from tests.harness.lazyimages import image_of, keep
from tests.harness.policy import ExpectedLogs
from tests.harness.system import unmount_below
from tests.imagestore.lazyshop import mounted
from tests.lazy.faultyregistry import Answer, FaultyRegistry
from tests.lazy.site import Site, blobs_of, noise
from tests.service.lazystore import Keeper, LazyStore, folder_of, published_problems

ONE = zstd_podman([file("first", noise(20_000, 1)), file("second", noise(150_000, 2))], 50_000)
TWO = estargz([file("third", noise(30_000, 3)), file("fourth", noise(90_000, 4))], 40_000)
THREE = estargz([file("fifth", noise(30_000, 5))], 40_000)
FIRST, SECOND, THIRD = (hashlib.sha256(noise(size, seed)).digest() for size, seed in ((20_000, 1), (150_000, 2), (30_000, 3)))


@pytest.fixture
def store(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[LazyStore]:
    with FaultyRegistry(blobs_of(ONE, TWO, THREE)) as registry, Site(service.layout.root, service.workers) as site:
        keeper = Keeper(site)
        monkeypatch.setattr(service, "lazies", keeper)
        yield LazyStore(service, keeper, registry)


def listed(service: Service) -> set[str]:
    return set(service.composefs.published())


# -- gc


def test_what_a_reference_names_stays(store: LazyStore, service: Service) -> None:
    image, layers = store.pull("img", ONE, TWO)
    assert listed(service) == set(image.toc_chain)
    before = store.things()
    assert collect(service) == collect(service, dry_run=True) == Garbage()
    assert store.things() == before
    live, _ = survey(service)
    reference = Holder("reference", "r.io/img:1")
    assert live.lazy == {layer.key: {reference} for layer in layers}
    assert not live.layers.keys() & set(service.layers.ids())
    assert [problem.what for problem in fsck(service, deep=True).found] == []


def test_a_lazy_layer_on_one_that_was_lazy(store: LazyStore, service: Service) -> None:
    """It lies on the very folder that is held for whoever uses it."""
    image, layers = store.pull("img", ONE, TWO)
    store.settle(image, layers)
    store.make(THREE, "other")
    other = image_of(ONE, THREE, note="other")
    keep(service.images, "r.io/other:1", other)
    service.publish(other)
    below, above = other.toc_chain
    assert below == image.toc_chain[0] and service.composefs.lazy_key(above) is not None
    lower = (service.composefs.folder(above) / "lower").read_text()
    assert service.composefs.link_target(lower.removeprefix("l/")) == below
    assert published_problems(service) == []


def test_a_complete_layer_on_one_that_was_lazy(store: LazyStore, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever uses it by its table of contents has what is mounted below it."""
    image, layers = store.pull("img", ONE, TWO)
    store.settle(image, layers)
    store.seal(store.make(THREE, "other"))
    other = image_of(ONE, THREE, note="other")
    keep(service.images, "r.io/other:1", other)
    service.publish(other)
    top = other.toc_chain[1]
    assert service.composefs.home(top) == other.chain[1] and service.composefs.home(other.toc_chain[0]) == other.toc_chain[0]
    assert published_problems(service) == []
    for name in ("r.io/img:1", "r.io/other:1"):
        service.images.forget(name)
    held = Claims({top: frozenset({Holder("container", "c", "/g")})})
    monkeypatch.setattr(service.clients, "claims", lambda known: held)
    collect(service)
    assert listed(service) == {*other.chain, *other.toc_chain}
    lower = (service.composefs.folder(top) / "lower").read_text()
    assert service.composefs.link_target(lower.removeprefix("l/")) in listed(service)
    assert published_problems(service) == []


def test_a_removed_image_goes_with_its_lazy_layers(store: LazyStore, service: Service) -> None:
    image, layers = store.pull("img", ONE, TWO)
    assert store.read(layers[0], FIRST) == noise(20_000, 1)
    assert len(store.read(layers[1], THIRD, 100)) == 100
    layers[0].commit()
    removed = remove(service, "r.io/img:1")
    assert (removed.references, removed.holders) == (("r.io/img:1",), ())
    would = collect(service, dry_run=True)
    assert (would.images, set(would.chains)) == ((image.digest,), set(image.toc_chain))
    assert set(would.lazy) == {layer.key for layer in layers}
    assert would.objects >= 2
    assert would.bytes >= 20_000
    assert listed(service) == set(image.toc_chain)
    assert collect(service) == would
    assert store.things() == {}
    assert store.mounts() == []
    assert collect(service) == Garbage()


def test_the_daemon_finds_that_a_layer_is_gone(store: LazyStore, service: Service) -> None:
    """It is asked for the image again before it has looked round."""
    _, (old,) = store.pull("img", ONE)
    assert store.read(old, FIRST) == noise(20_000, 1)
    remove(service, "r.io/img:1")
    assert collect(service).lazy == (old.key,)
    _, (new,) = store.pull("img", ONE)
    assert new is not old
    assert new.key == old.key
    assert store.read(new, SECOND) == noise(150_000, 2)
    assert store.read(new, FIRST) == noise(20_000, 1)
    assert store.site.lazy.all() == [new]


def test_gc_while_bytes_are_in_the_air(store: LazyStore, service: Service, expect_log: ExpectedLogs) -> None:
    expect_log("the store cannot be written")
    _, (old,) = store.pull("img", ONE)
    remove(service, "r.io/img:1")
    found: list[Garbage] = []

    def before_the_answer(_: Answer) -> None:
        if not found:
            found.append(collect(service))

    store.registry.fault = before_the_answer
    with pytest.raises(StoreError):
        store.read(old, FIRST)
    assert found[0].lazy == (old.key,)
    assert store.things() == {}, "what comes late is written nowhere"
    _, (new,) = store.pull("img", ONE)
    assert store.read(new, FIRST) == noise(20_000, 1)


def test_what_two_images_share_goes_with_the_second(store: LazyStore, service: Service) -> None:
    one, (first, second) = store.pull("one", ONE, TWO)
    two, (same,) = store.pull("two", ONE)
    assert same is first
    remove(service, "r.io/one:1")
    found = collect(service)
    assert (found.images, found.chains, found.lazy) == ((one.digest,), (one.toc_chain[1],), (second.key,))
    assert listed(service) == {two.toc_chain[0]}
    assert (service.composefs.folder(two.toc_chain[0]) / "lazy").read_text() == first.key
    remove(service, "r.io/two:1")
    assert collect(service).lazy == (first.key,)
    assert store.things() == {}


def test_what_was_made_and_never_listed(store: LazyStore, service: Service) -> None:
    """The process ended between the two."""
    layer = store.make(ONE, "img")
    other = service.layout.lazy / "half"
    other.mkdir()
    assert set(collect(service).lazy) == {layer.key, "half"}
    assert store.things() == {}


def test_the_reason_of_a_refusal_stays(store: LazyStore, service: Service) -> None:
    image, (layer,) = store.pull("img", ONE)
    assert store.read(layer, FIRST) == noise(20_000, 1)
    store.site.lazy.refuse(layer, DigestMismatch("it is another"))
    assert [(p.kind, p.remedy) for p in fsck(service).found] == [("image store", Remedy.UNPUBLISH)]
    service.composefs.unpublish(image.toc_chain)
    remove(service, "r.io/img:1")
    assert collect(service).lazy == (layer.key,)
    assert sorted(os.listdir(folder_of(service, layer))) == ["lazy.json", "refused"]
    assert "it is another" in (folder_of(service, layer) / "refused").read_text()
    assert keys(service.layout) == []
    assert collect(service) == Garbage()
    assert fsck(service, deep=True).found == ()
    with pytest.raises(BadImage, match="refused before"):
        store.make(ONE, "img")


def test_a_sealed_layer_s_folder_goes_when_no_container_began_before(
    store: LazyStore, service: Service, tmp_path: Path
) -> None:
    image, layers = store.pull("img", ONE, TWO)
    root = mounted(service.composefs, image.toc_chain, tmp_path / "c")
    # The kernel has no name for what the container looks files up in; it has the chain's.
    store.settle(image, layers)
    assert find_mount(service.composefs.folder(image.toc_chain[1]) / "diff") is None
    assert listed(service) == {*image.chain, *image.toc_chain}
    assert collect(service) == Garbage()
    assert {path.name: len(path.read_bytes()) for path in root.iterdir() if path.name in ("first", "fourth")} == {
        "first": 20_000,
        "fourth": 90_000,
    }
    unmount_below(tmp_path / "c")
    found = collect(service)
    assert set(found.lazy) == {layer.key for layer in layers}
    assert (found.images, found.chains, found.layers, found.objects) == ((), (), (), 0)
    assert "lazy" not in store.things()
    assert (mounted(service.composefs, image.toc_chain, tmp_path / "d") / "second").read_bytes() == noise(150_000, 2)
    assert fsck(service, deep=True).found == ()
    unmount_below(tmp_path / "d")
    remove(service, "r.io/img:1")
    collect(service)
    assert store.things() == {}


def test_a_mount_holds_what_no_reference_names(store: LazyStore, service: Service, tmp_path: Path) -> None:
    image, (layer,) = store.pull("img", ONE)
    mounted(service.composefs, image.toc_chain, tmp_path / "c")
    removed = remove(service, "r.io/img:1")
    assert {holder.kind for holder in removed.holders} == {"mount"}
    found = collect(service)
    assert (found.images, found.chains, found.lazy) == ((image.digest,), (), ())
    assert listed(service) == set(image.toc_chain)
    unmount_below(tmp_path / "c")
    assert collect(service).lazy == (layer.key,)
    assert store.things() == {}


def test_a_mount_of_the_layer_itself_holds_it(store: LazyStore, service: Service, tmp_path: Path) -> None:
    """As clients of the layer store make it: image, what is here, what is not."""
    image, (layer,) = store.pull("img", ONE)
    folder = folder_of(service, layer)
    mount_erofs(folder / "layer.erofs", folder / "diff")
    merged = tmp_path / "merged"
    merged.mkdir()
    options = f"lowerdir={folder / 'diff'}:{folder / 'diff1'}:{folder / 'diff2'},metacopy=on,redirect_dir=on"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", merged], check=True)
    remove(service, "r.io/img:1")
    found = collect(service)
    assert (found.chains, found.lazy) == (image.toc_chain, ())
    assert folder.exists()
    unmount(merged)
    assert collect(service).lazy == (layer.key,), "our own mount of the image does not count"
    assert store.mounts() == []
    assert store.things() == {}


def test_settling_that_stopped_half_way_is_no_garbage(
    store: LazyStore, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is complete, its folder not yet: gc between the two, and fsck."""
    image, (layer,) = store.pull("img", ONE)
    store.seal(layer)
    chain_id = image.toc_chain[0]

    def killed(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("als.imagestore.composefs.unmount_lazy", killed)
        service.composefs.settle([service.layer_of(image, 0)])
    assert "diff-digest" in service.composefs.published()[chain_id]
    assert service.composefs.lazy_key(chain_id) == layer.key
    assert collect(service) == Garbage()
    assert published_problems(service) == []
    service.composefs.cover(chain_id)
    service.composefs.settle([service.layer_of(image, 0)])
    assert service.composefs.lazy_key(chain_id) is None
    service.publish(image)
    assert fsck(service, deep=True).found == ()
    assert collect(service).lazy == (layer.key,)


# -- the decision alone

HOLDER = frozenset({Holder("mount", "/c")})
DIFF_ID = Digest.of(b"stream")


def test_a_promised_diff_id_holds_no_layer() -> None:
    entry = Published("c", "", None, lazy="k")
    live = decide({}, [], [], [entry], Claims({"c": HOLDER}))
    assert (set(live.chains), live.layers, live.lazy) == ({"c"}, {}, {"k": set(HOLDER)})
    assert decide({}, [], [], [entry], Claims()).lazy == {}


def test_who_may_have_begun_on_a_chain_holds_its_lazy_layer() -> None:
    entry = Published("c", "", DIFF_ID)
    held = decide({}, [], [], [entry], Claims({"c": HOLDER}), lazy={"k": {"c", "other"}, "l": {"other"}})
    assert held.lazy == {"k": set(HOLDER)}
    above = [entry, Published("d", "c", DIFF_ID)]
    assert decide({}, [], [], above, Claims({"d": HOLDER}), lazy={"k": {"c"}}).lazy == {"k": set(HOLDER)}
    unknown = decide({}, [], [], [entry], Claims(unknown=("no answer",)), lazy={"k": {"c"}})
    assert unknown.lazy == {"k": {Holder("client", "no answer")}}
    assert decide({}, [], [], [entry], Claims(lazy={"l": HOLDER}), lazy={"k": {"c"}}).lazy == {"l": set(HOLDER)}


def test_an_image_holds_what_lies_on_a_layer_whose_table_was_not_verified() -> None:
    """That one is listed by its DiffID, which gives all above it another ID than clients compute."""
    image = image_of(ONE, TWO)
    (bottom, top), tocs = image.config.diff_ids, [toc_digest(layer) for layer in image.manifest.layers]
    assert tocs[1] is not None
    low = chain_id("", bottom)
    entries = [Published(low, "", bottom), Published(toc_chain_id(low, tocs[1]), low, None, lazy="k")]
    refs = [RefRecord("r", image.digest, image.digest, 0.0)]
    live = decide({image.digest: image}, refs, [], entries, Claims())
    assert set(live.chains) == {*image.chain, *image.toc_chain, *(entry.chain_id for entry in entries)}
    assert set(live.lazy) == {"k"}
    assert set(live.layers) == {bottom, top}
    assert set(decide({image.digest: image}, refs, [], [], Claims()).chains) == {*image.chain, *image.toc_chain}
