"""The decision itself, without a disk; and what is read from clients' files and the kernel's mount tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from als.config import Config
from als.errors import LockTimeout, StoreError
from als.imagestore import graphroot
from als.imagestore.diffn import DiffNStore
from als.imagestore.graphroot import Named, read_graph_root
from als.model.chain import chain_ids
from als.model.digest import Digest
from als.mount.namespaces import overlay_lowers, overlay_upper
from als.mount.table import parse_mountinfo
from als.service.clients import Clients
from als.store.images import ImageRecord, RefRecord
from als.store.layers import Layers
from als.store.layout import Layout
from als.store.liveness import LEASE_SECONDS, Claims, Holder, Published, decide
from als.store.uptime import Uptime
from als.store.uses import Use
from tests.harness.policy import ExpectedLogs

HOLDER = frozenset({Holder("container", "c", "/g")})


def record(*names: str) -> ImageRecord:
    """An image of layers whose streams and blobs are named."""
    diff_ids = [str(Digest.of(name.encode())) for name in names]
    media = "application/vnd.oci.image"
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{media}.manifest.v1+json",
        "config": {"mediaType": f"{media}.config.v1+json", "digest": str(Digest.of(b"config")), "size": 1},
        "layers": [
            {"mediaType": f"{media}.layer.v1.tar", "digest": str(Digest.of(b"blob" + name.encode())), "size": 1}
            for name in names
        ],
    }
    return ImageRecord.parse(f"{media}.manifest.v1+json", json.dumps(manifest).encode(), json.dumps(config).encode())


def published(*images: ImageRecord) -> list[Published]:
    found = {}
    for image in images:
        parent = ""
        for chain, diff_id in zip(image.chain, image.config.diff_ids, strict=True):
            found[chain] = Published(chain, parent, diff_id)
            parent = chain
    return list(found.values())


def reference(name: str, image: ImageRecord) -> RefRecord:
    return RefRecord(name, image.digest, image.digest, 0.0)


def by_digest(*images: ImageRecord) -> dict[Digest, ImageRecord]:
    return {image.digest: image for image in images}


def test_a_reference_holds_its_image() -> None:
    kept, dead = record("a", "b"), record("a", "c")
    live = decide(by_digest(kept, dead), [reference("r", kept)], [], published(kept, dead), Claims())
    assert set(live.images) == {kept.digest}
    assert set(live.chains) == set(kept.chain)
    assert set(live.layers) == set(kept.config.diff_ids)
    assert live.layers[kept.config.diff_ids[0]] == {Holder("reference", "r")}


def test_nothing_holds_nothing() -> None:
    dead = record("a", "b")
    live = decide(by_digest(dead), [], [], published(dead), Claims())
    assert (live.images, live.chains, live.layers) == ({}, {}, {})


def test_a_client_holds_what_lies_below() -> None:
    image = record("a", "b", "c")
    live = decide({}, [], [], published(image), Claims({image.chain[1]: HOLDER}))
    assert set(live.chains) == set(image.chain[:2])
    assert set(live.layers) == set(image.config.diff_ids[:2])
    assert live.chains[image.chain[0]] == HOLDER


def test_a_mounted_layer_is_held_without_a_chain() -> None:
    image = record("a", "b")
    live = decide(by_digest(image), [], [], published(image), Claims(layers={image.config.diff_ids[1].hex: HOLDER}))
    assert (set(live.images), set(live.chains), set(live.layers)) == (set(), set(), {image.config.diff_ids[1]})


def test_a_use_holds_the_image_up_to_its_layer() -> None:
    image, other = record("a", "b", "c"), record("b", "x")
    blob = str(image.manifest.layers[1].digest)
    live = decide(by_digest(image, other), [reference("r", image)], [Use("r", blob, 1)], [], Claims())
    assert set(live.images) == {image.digest}, "the image that the reference names comes first"
    live = decide(by_digest(image), [], [Use("gone", blob, 1)], published(image), Claims())
    assert set(live.images) == {image.digest}
    assert set(live.chains) == set(image.chain[:2])
    assert decide(by_digest(image), [], [Use("gone", "sha256:" + "0" * 64, 1)], [], Claims()).images == {}


def test_an_unknown_client_holds_whatever_is_published() -> None:
    image, unpublished = record("a", "b"), record("x")
    live = decide(by_digest(image, unpublished), [], [], published(image), Claims(unknown=("no answer",)))
    assert set(live.chains) == set(image.chain)
    assert set(live.layers) == set(image.config.diff_ids)
    assert live.images == {}


def test_parents_in_a_circle_end() -> None:
    one, two = (Digest.of(name) for name in (b"1", b"2"))
    circle = [Published("a", "b", one), Published("b", "a", two)]
    assert set(decide({}, [], [], circle, Claims({"a": HOLDER})).chains) == {"a", "b"}


def mount_line(options: str) -> bytes:
    return b"96 59 0:54 / /g/overlay/id/merged rw - overlay overlay rw," + options.encode() + b"\n"


@pytest.mark.parametrize(
    ("options", "lowers", "upper"),
    [
        ("lowerdir=/a:/b/../diff1:l/XY,upperdir=/u,workdir=/w", ["/a", "/b/../diff1", "l/XY"], "/u"),
        ("lowerdir=/a::/data,metacopy=on", ["/a", "/data"], ""),
        ("lowerdir+=/a,lowerdir+=/b,datadir+=/c", ["/a", "/b", "/c"], ""),
        (r"lowerdir=/with\\:colon:/with\\,comma,upperdir=/u", ["/with:colon", "/with,comma"], "/u"),
        (r"lowerdir=/with\040space", ["/with space"], ""),
    ],
)
def test_lowers_of_overlays(options: str, lowers: list[str], upper: str) -> None:
    # The kernel doubles no backslash of overlay's own; mountinfo escapes it as \134.
    (entry,) = parse_mountinfo(mount_line(options.replace("\\\\", "\\134")))
    assert (overlay_lowers(entry), overlay_upper(entry)) == (lowers, upper)


def graph_root(folder: Path, files: Mapping[str, object]) -> Path:
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return folder


def test_what_a_graph_root_names(tmp_path: Path) -> None:
    graph = graph_root(
        tmp_path / "g",
        {
            "overlay-layers/layers.json": [{"id": "own", "parent": "ours1"}, {"id": "linked"}, {"id": "full", "parent": "own"}],
            "overlay-layers/volatile-layers.json": [{"id": "rw", "parent": "ours2"}],
            "overlay-images/images.json": [{"id": "i", "names": ["img:1"], "layer": "ours3", "mapped-layers": ["ours4"]}],
            "overlay-containers/containers.json": [{"id": "c" * 64, "layer": "rw"}],
        },
    )
    for name in ("own", "full", "rw"):
        (graph / "overlay" / name / "diff").mkdir(parents=True)
    (graph / "overlay" / "linked").mkdir()
    (graph / "overlay" / "linked" / "diff").symlink_to("/elsewhere")
    run = graph_root(tmp_path / "r", {"overlay-containers/volatile-containers.json": [{"id": "v", "layer": "ours5"}]})
    assert read_graph_root(graph, run) == {
        Named("ours1", "layer", "own"),
        Named("linked", "layer", "linked"),
        Named("ours2", "layer", "rw"),
        Named("ours3", "image", "img:1"),
        Named("ours4", "image", "img:1"),
        Named("ours5", "container", "v"),
    }
    assert read_graph_root(tmp_path / "nothing here") == set()


@pytest.mark.parametrize("data", [b"{", b"{}", b"[1]", b'"text"'])
def test_records_that_are_not_understood(tmp_path: Path, data: bytes) -> None:
    graph_root(tmp_path, {"overlay-images/images.json": data})
    with pytest.raises(StoreError, match=r"images\.json"):
        read_graph_root(tmp_path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "overlay-layers").mkdir()
    os.mkfifo(tmp_path / "overlay-layers" / "layers.json")
    with pytest.raises(StoreError, match="not a regular file"):
        read_graph_root(tmp_path)


def test_a_client_that_holds_its_lock_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphroot, "_LOCK_SECONDS", 0.05)
    graph_root(tmp_path, {"overlay-layers/layers.json": [], "overlay-layers/layers.lock": b"x" * 64})
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, tmp_path / "overlay-layers" / "layers.lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(LockTimeout):
            read_graph_root(tmp_path)
        child.communicate(timeout=30)
    assert read_graph_root(tmp_path) == set()


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    layout = Layout(tmp_path / "a")
    layout.create()
    store = DiffNStore(layout, Layers(layout))
    store.create()
    conf = tmp_path / "storage.conf"
    conf.write_text(f'[storage]\ngraphroot = "{tmp_path}/named"\n')
    config = Config(root=tmp_path / "a", clients=(tmp_path / "said",))
    return Clients(config, layout, (store,), {"CONTAINERS_STORAGE_CONF": str(conf)})


CHAIN = chain_ids([Digest.of(b"a"), Digest.of(b"b")])


def test_which_graph_roots_are_asked(tmp_path: Path, clients: Clients) -> None:
    asked = {root.path for root in clients.graph_roots()}
    assert {tmp_path / "named", tmp_path / "said", Path("/var/lib/containers/storage")} <= asked


def test_a_graph_root_in_use_is_remembered(tmp_path: Path, clients: Clients, expect_log: ExpectedLogs) -> None:
    expect_log("everything that is published stays")
    (tmp_path / "said").mkdir()
    graph_root(tmp_path / "named", {"overlay-images/images.json": [{"id": "i", "names": ["img"], "layer": CHAIN[1]}]})
    claims = clients.claims(CHAIN)
    assert claims.chains == {CHAIN[1]: {Holder("image", "img", str(tmp_path / "named"))}}
    assert claims.unknown == ()
    (tmp_path / "storage.conf").write_text("")
    assert clients.claims(CHAIN).chains == claims.chains, "nobody names it any more, but it was seen"
    # It is removed: then it uses nothing. On a disk that is not mounted it would be another matter.
    (tmp_path / "named").rename(tmp_path / "gone")
    assert clients.claims(CHAIN) == Claims()
    seen = json.loads((tmp_path / "a" / "clients.json").read_bytes())
    seen["graph_roots"][str(tmp_path / "named")] += 1
    (tmp_path / "a" / "clients.json").write_text(json.dumps(seen))
    assert "--forget" in clients.claims(CHAIN).unknown[0]
    assert clients.forget(tmp_path / "named") and not clients.forget(tmp_path / "named")
    assert clients.claims(CHAIN) == Claims()


def test_a_client_of_the_settings_must_be_there(tmp_path: Path, clients: Clients, expect_log: ExpectedLogs) -> None:
    expect_log("everything that is published stays")
    assert str(tmp_path / "said") in clients.claims(CHAIN).unknown[0]


def test_a_name_that_nobody_asked_for_holds_for_an_hour() -> None:
    image = record("a", "b")
    begun = Uptime("a", 1000.0)
    refs = [RefRecord("r", image.digest, image.digest, 0.0, renewed=begun)]
    fresh = decide(by_digest(image), refs, [], published(image), Claims(), Uptime("a", 1000.0 + LEASE_SECONDS - 1))
    assert set(fresh.images) == {image.digest}
    booted = decide(by_digest(image), refs, [], published(image), Claims(), Uptime("b", 1001.0))
    assert booted.images == {}, "whoever pulled it is gone"
    old = Uptime("a", 1000.0 + LEASE_SECONDS)
    assert decide(by_digest(image), refs, [], published(image), Claims(), old).images == {}
    used = decide(by_digest(image), refs, [], published(image), Claims({image.chain[-1]: HOLDER}), old)
    assert used.images == {image.digest: set(HOLDER)}, "as long as a client has it"
    below = decide(by_digest(image), refs, [], published(image), Claims({image.chain[0]: HOLDER}), old)
    assert (below.images, set(below.chains)) == ({}, {image.chain[0]})
    assert decide(by_digest(image), refs, [], published(image), Claims(unknown=("no answer",)), old).images
    asked = [RefRecord("r", image.digest, image.digest, 0.0, asked=True, renewed=begun)]
    assert decide(by_digest(image), asked, [], published(image), Claims(), old).images
