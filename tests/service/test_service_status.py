"""How far images are: with real lazy layers, from the first byte to the seal, and as processes see it that are no daemon."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest

from als.errors import DigestMismatch, NotFound, StoreError
from als.lazy.record import LazyRecord
from als.model.digest import Digest
from als.model.reference import parse_reference
from als.model.status import LayerStatus, State
from als.service import Service
from als.service.status import Seen, fill, layer_status, links, match, status
from als.service.usage import measure
from tests.formats.tocbuilder import estargz, file, zstd_podman
from tests.harness.lazyimages import ServedLayers, image_of, keep
from tests.harness.ocilayout import Layout, TarBuilder
from tests.harness.policy import ExpectedLogs
from tests.lazy.faultyregistry import Answer, FaultyRegistry
from tests.lazy.site import TIMEOUT, Site, blobs_of, noise, read

SAMPLE = zstd_podman([file("first", noise(200_000, 1)), file("second", noise(300_000, 2))], 50_000)
OTHER = estargz([file("x", b"x" * 100)])
FIRST = hashlib.sha256(noise(200_000, 1)).digest()
BYTES = 500_000


@pytest.fixture
def site(service: Service) -> Iterator[Site]:
    with Site(service.layout.root, service.workers) as found:
        yield found


@pytest.fixture
def served(service: Service, site: Site, monkeypatch: pytest.MonkeyPatch) -> ServedLayers:
    """The service is a daemon's from now on."""
    found = ServedLayers(site)
    monkeypatch.setattr(service, "lazies", found)
    return found


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with FaultyRegistry(blobs_of(SAMPLE, OTHER)) as found:
        yield found


def of(service: Service, name: str = "r.io/lazy:1") -> LayerStatus:
    (image,) = status(service, name)
    (layer,) = image.layers
    return layer


def test_from_the_first_byte_to_the_seal(service: Service, site: Site, served: ServedLayers, registry: FaultyRegistry) -> None:
    keep(service.images, "r.io/lazy:1", image_of(SAMPLE))
    assert of(service).state is State.MISSING
    layer = site.layer(registry, SAMPLE)
    listed = of(service)
    assert (listed.state, listed.percent, listed.files_here, listed.files) == (State.LISTED, 0, 0, 2)
    assert (listed.fetched, listed.rate, listed.filling, listed.format) == (0, 0.0, False, "estargz")
    read(layer, FIRST, 0, 1)
    site.wait_idle(layer)
    lazy = of(service)
    assert lazy.state is State.LAZY
    assert 0 < (lazy.bytes_here or 0) < BYTES == lazy.bytes
    assert 0 < lazy.fetched <= registry.asked_bytes
    assert lazy.rate > 0
    assert lazy.place == registry.address
    assert [link.host for link in links(service)] == [registry.address]
    assert fill(service, "r.io/lazy:1") == 1
    layer.content.result(TIMEOUT)
    complete = of(service)
    assert (complete.state, complete.percent, complete.files_here, complete.filling) == (State.COMPLETE, 100, 2, None)
    assert fill(service, "r.io/lazy:1") == 1, "it is not sealed yet"
    site.sealer.seal(layer)
    assert of(service).state is State.COMPLETE, "clients are not led over yet"
    served.hidden.add(layer.key)
    sealed = of(service)
    assert (sealed.state, sealed.bytes, sealed.bytes_here, sealed.filling) == (State.SEALED, BYTES, BYTES, None)
    assert links(service) == []


def test_without_a_daemon(service: Service, site: Site, registry: FaultyRegistry) -> None:
    keep(service.images, "r.io/lazy:1", image_of(SAMPLE))
    layer = site.layer(registry, SAMPLE)
    seen = of(service)
    assert (seen.state, seen.percent, seen.filling, seen.format) == (State.LAZY, None, None, "estargz")
    assert (fill(service, "r.io/lazy:1"), links(service)) == (0, [])
    site.lazy.refuse(layer, DigestMismatch("other bytes", where="r.io/lazy:1"))
    refused = of(service)
    assert (refused.state, refused.trouble) == (State.REFUSED, "r.io/lazy:1: other bytes")
    assert refused.troubled > 1e9
    (folder,) = service.layout.lazy.iterdir()
    (folder / "lazy.json").write_text("{")
    assert of(service).state is State.MISSING, "what nobody can read is nobody's layer"
    shutil.rmtree(folder)
    assert of(service).state is State.MISSING


def test_a_refused_layer_in_the_daemon(service: Service, site: Site, served: ServedLayers, registry: FaultyRegistry) -> None:
    keep(service.images, "r.io/lazy:1", image_of(SAMPLE))
    keep(service.images, "r.io/good:1", image_of(OTHER))
    layer = site.layer(registry, SAMPLE)
    other = site.layer(registry, OTHER)
    layer.refuse(StoreError("before the folder says so"))
    assert (of(service).state, of(service).trouble) == (State.REFUSED, "before the folder says so")
    site.lazy.refuse(layer, DigestMismatch("other bytes"))
    served.hidden.add(layer.key)
    assert of(service).state is State.REFUSED
    other.fill()
    other.content.result(TIMEOUT)
    site.sealer.seal(other)
    served.hidden.add(other.key)
    states = {image.name: image.state for image in status(service)}
    assert states == {"r.io/lazy:1": State.REFUSED, "r.io/good:1": State.SEALED}


def test_the_last_trouble(
    service: Service, site: Site, served: ServedLayers, registry: FaultyRegistry, expect_log: ExpectedLogs
) -> None:
    expect_log("503")
    keep(service.images, "r.io/lazy:1", image_of(SAMPLE))
    layer = site.layer(registry, SAMPLE)
    assert (of(service).trouble, of(service).troubled) == ("", 0.0)

    def refuse(answer: Answer) -> None:
        answer.status, answer.body = 503, b""

    registry.fault = refuse
    layer.fill()
    site.wait(lambda: bool(of(service).trouble), "a failed request")
    assert "503" in of(service).trouble
    assert of(service).troubled > 1e9
    site.wait(lambda: any(link.resting for link in links(service)), "a host that is left alone")


def test_all_images(
    service: Service, site: Site, registry: FaultyRegistry, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = TarBuilder().file("a", b"a" * 5000).build()
    layout.add_image("plain", [layout.add_layer(tar)])
    plain = service.pull(parse_reference(layout.name("plain")))
    monkeypatch.setattr(service, "lazies", ServedLayers(site))
    keep(service.images, "r.io/lazy:1", image_of(SAMPLE))
    keep(service.images, "r.io/lazy:2", image_of(SAMPLE))
    service.images.put(image_of(OTHER))
    service.images.put(image_of(SAMPLE, note="without a name"))
    site.layer(registry, SAMPLE)
    found = status(service)
    assert {image.references: image.state for image in found} == {
        ("r.io/lazy:1", "r.io/lazy:2"): State.LISTED,
        (layout.name("plain"),): State.SEALED,
        (): State.LISTED,
    }
    assert [image.name for image in found] == sorted(image.name for image in found)
    assert status(service, str(plain.digest)) == [image for image in found if image.digest == plain.digest]
    with pytest.raises(NotFound):
        status(service, "nothing")
    with pytest.raises(NotFound):
        fill(service, "nothing")


def test_another_image_s_table_of_contents(service: Service) -> None:
    """Who describes a blob wrongly is refused; others who describe the same blob are not."""
    described = SAMPLE.descriptor
    diff_id = Digest.parse(SAMPLE.diff_id)
    record = LazyRecord("r.io/a:1", described, diff_id, "zstd:chunked", "")
    annotations = {
        name: str(Digest.of(b"other")) if "checksum" in name else text for name, text in described.annotations.items()
    }
    assert annotations != described.annotations
    other = replace(described, annotations=annotations)
    seen = [Seen(replace(record, descriptor=other), "refused"), Seen(record)]
    assert match(seen, described, diff_id) is seen[1]
    assert match(seen, other, diff_id) is seen[0]
    assert match(seen, described, Digest.of(b"x")) is None
    assert match(seen[:1], described, diff_id) is None
    assert layer_status(described, diff_id, None, seen[0]).state is State.REFUSED
    twice = replace(described, annotations={**annotations, "containerd.io/snapshot/stargz/toc.digest": str(Digest.of(b"y"))})
    assert match(seen, twice, diff_id) is None, "a layer that no client takes disturbs nobody"


def test_space_of_lazy_layers(service: Service, site: Site, registry: FaultyRegistry) -> None:
    layer = site.layer(registry, SAMPLE)
    before = measure(service)
    assert (before.lazy, before.partial, before.objects) == (0, 0, 0)
    assert before.metadata > 0
    read(layer, FIRST, 0, 1)
    site.wait_idle(layer)
    parts = measure(service)
    assert 0 < parts.partial + parts.lazy <= BYTES + (64 << 10)
    layer.fill()
    layer.content.result(TIMEOUT)
    whole = measure(service)
    assert (whole.lazy, whole.partial, whole.objects) == (BYTES, 0, 0)
    site.sealer.seal(layer)
    sealed = measure(service)
    assert (sealed.lazy, sealed.partial, sealed.objects) == (0, 0, BYTES)
