"""images.json: whatever was asked for, clients can read it, and find every image by name, ID and digest."""

from __future__ import annotations

import json
import os
import re
import string
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.imagestore.images import Asked, ImageList, file_name, listed_images
from als.model.chain import chain_ids, toc_chain_ids
from als.model.digest import Digest
from als.model.manifest import OCI_MANIFEST, STARGZ_TOC
from als.store.images import ImageRecord, RefRecord

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def record(
    number: int, variant: int = 0, layers: int = 2, created: str = "2023-11-14T22:13:20Z", toc: bool = False
) -> ImageRecord:
    """An image; variants of one have the same config, and so the same ID, but other manifests."""
    diff_ids = [Digest.of(b"%d/%d" % (number, n)) for n in range(layers)]
    config = {"created": created, "rootfs": {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]}}
    config_data = json.dumps(config).encode()
    tocs = {STARGZ_TOC: str(toc_of(number))} if toc else {}
    descriptors = [
        {"mediaType": LAYER, "digest": str(Digest.of(b"%d" % variant + diff_id.raw)), "size": 1, "annotations": tocs}
        for diff_id in diff_ids
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "c", "digest": str(Digest.of(config_data)), "size": len(config_data)},
        "layers": descriptors,
    }
    return ImageRecord.parse(OCI_MANIFEST, json.dumps(manifest).encode(), config_data)


def toc_of(number: int) -> Digest:
    return Digest.of(b"toc %d" % number)


def asked(image: ImageRecord, reference: str, pulled: float = 1.0, index: bytes | None = None, by_toc: bool = False) -> Asked:
    listed = image.digest if index is None else Digest.of(index)
    return Asked(RefRecord(reference, image.digest, listed, pulled, True), image, index, by_toc)


@st.composite
def requests(draw: st.DrawFn) -> list[Asked]:
    names = draw(st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=8), max_size=12, unique=True))
    found = []
    for name in names:
        image = record(draw(st.integers(0, 3)), draw(st.integers(0, 2)), draw(st.integers(0, 3)), toc=draw(st.booleans()))
        index = draw(st.sampled_from([None, b"index a", b"index b"]))
        suffix = f"@{image.digest}" if draw(st.booleans()) else ":1"
        found.append(asked(image, f"host/{name}{suffix}", draw(st.floats(0, 9)), index, draw(st.booleans())))
    return found


@given(requests())
def test_every_image_is_found_by_all_that_names_it(found: list[Asked]) -> None:
    listed = listed_images(found)
    assert len({image.image_id for image in listed}) == len(listed)
    names = [name for image in listed for name in image.names]
    assert sorted(names) == sorted(each.ref.reference for each in found), "each name once: a client refuses the list otherwise"
    by_name = {name: image for image in listed for name in image.names}
    for each in found:
        image = by_name[each.ref.reference]
        entry = json.loads(json.dumps(image.to_json()))
        assert image.data[f"manifest-{each.image.digest}"] == each.image.manifest_data
        assert str(each.ref.listed) in entry["big-data-digests"].values(), "by the digest it was pulled by, too"
        assert entry.get("layer", "") == (each.chain[-1] if each.chain else "")
        assert entry["big-data-sizes"] == {key: len(data) for key, data in image.data.items()}
        assert set(entry["big-data-names"]) == image.data.keys()
        assert image.data[str(each.image.manifest.config.digest)] == each.image.config_data
    assert listed_images(list(reversed(found))) == listed, "the same, in whatever order they were asked for"


def test_the_last_one_pulled_is_the_image_s_manifest() -> None:
    older, newer = record(1, 1), record(1, 2)
    (image,) = listed_images([asked(newer, "h/b:1", 2.0), asked(older, "h/a:1", 1.0)])
    assert image.data["manifest"] == newer.manifest_data
    assert image.digest == newer.digest
    assert image.names == ("h/a:1", "h/b:1")


def test_an_image_of_an_index_has_the_index_s_digest() -> None:
    (image,) = listed_images([asked(record(1), "h/a:1", index=b"an index")])
    assert image.digest == Digest.of(b"an index")
    assert image.data["manifest"] == record(1).manifest_data


def test_ids_of_images_that_were_found_by_toc() -> None:
    image = record(1, toc=True)
    (plain,) = listed_images([asked(image, "h/a:1")])
    (by_toc,) = listed_images([asked(image, "h/a:1", by_toc=True)])
    assert plain.image_id == image.manifest.config.digest.hex
    assert plain.top == chain_ids(image.config.diff_ids)[-1]
    config, toc = image.manifest.config.digest.hex, toc_of(1)
    assert by_toc.image_id == Digest.of(f"@With TOC:{config}|{toc}|{toc}|".encode()).hex
    assert by_toc.top == toc_chain_ids(image.config.diff_ids, [toc, toc])[-1]


def test_images_without_a_name_that_clients_know() -> None:
    (image,) = listed_images([asked(record(1), "oci:/some/where:tag")])
    assert image.names == ()
    assert "names" not in image.to_json()


GO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@given(
    st.text() | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,12})?(Z|[+-][0-9]{2}:[0-9]{2})")
)
def test_no_image_s_word_spoils_the_list(created: str) -> None:
    (image,) = listed_images([asked(record(1, created=created.encode("utf-8", "replace").decode()), "h/a:1", 86_400.0)])
    assert GO_TIME.fullmatch(image.created)
    datetime.fromisoformat(image.created[:19])
    assert image.created in (created, "1970-01-02T00:00:00Z")


def test_times_are_kept_as_they_are() -> None:
    for created in ("2023-11-14T22:13:20Z", "2023-11-14T22:13:20.123456789Z", "2023-11-14T22:13:20+01:00"):
        assert listed_images([asked(record(1, created=created), "h/a:1")])[0].created == created
    for created in ("", "yesterday", "2023-02-30T00:00:00Z", "2023-11-14T22:13:20+25:00", "2023-11-14T24:00:01Z"):
        assert listed_images([asked(record(1, created=created), "h/a:1", 0.0)])[0].created == "1970-01-01T00:00:00Z"


@pytest.fixture
def images(tmp_path: Path) -> ImageList:
    found = ImageList(tmp_path / "overlay-images")
    found.create()
    return found


def files(images: ImageList) -> dict[str, bytes]:
    folder = images.list_file.parent
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_lies_on_the_disk(images: ImageList) -> None:
    wanted = listed_images([asked(record(1), "h/a:1", index=b"index"), asked(record(2), "h/b:1")])
    images.update(lambda: wanted)
    assert json.loads(images.list_file.read_bytes()) == [image.to_json() for image in wanted]
    for image in wanted:
        folder = images.list_file.parent / image.image_id
        assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == {
            file_name(key): data for key, data in image.data.items()
        }
    assert not list(images.faults(wanted))
    images.update(lambda: wanted[:1])
    assert {path.name for path in images.list_file.parent.iterdir() if path.is_dir()} == {wanted[0].image_id}
    images.update(list)
    assert set(files(images)) == {"images.json", "images.lock"}
    assert files(images)["images.json"] == b"[]"


def test_clients_read_again_only_what_has_changed(images: ImageList) -> None:
    wanted = listed_images([asked(record(1), "h/a:1")])
    before = files(images)
    images.update(lambda: wanted)
    after = files(images)
    assert after["images.lock"] != before["images.lock"] and len(after["images.lock"]) == 64
    images.update(lambda: wanted)
    assert files(images) == after


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "images.json").write_bytes(b"{"),
        lambda folder: (folder / "images.json").unlink(),
        lambda folder: next(folder.glob("*/manifest")).write_bytes(b"other"),
        lambda folder: next(folder.glob("*/=*")).unlink(),
        lambda folder: (folder / "left").mkdir(),
    ],
)
def test_damage_is_seen_and_goes(images: ImageList, damage: Callable[[Path], object]) -> None:
    wanted = listed_images([asked(record(1), "h/a:1")])
    images.update(lambda: wanted)
    sound = {name: data for name, data in files(images).items() if name != "images.lock"}
    damage(images.list_file.parent)
    assert list(images.faults(wanted))
    images.update(lambda: wanted)
    assert {name: data for name, data in files(images).items() if name != "images.lock"} == sound
    assert not list(images.faults(wanted))


def test_file_names() -> None:
    """As containers/storage names them (images.go: makeBigDataBaseName)."""
    assert file_name("manifest") == "manifest"
    assert file_name("sha256:ab") == "=c2hhMjU2OmFi"
    assert file_name("manifest-sha256:ab") == "=bWFuaWZlc3Qtc2hhMjU2OmFi"
