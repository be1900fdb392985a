"""rm and gc on a store without podman: races, locks, what is told."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection
from pathlib import Path

import pytest
from click.testing import CliRunner

from als.cli.main import cli
from als.errors import LockTimeout, NotFound, StoreDamaged
from als.mount.unmounting import unmount
from als.native.mounts import mount
from als.service import Service
from als.service.recovery import recover
from als.service.removal import collect, remove
from als.service.repair import fsck
from als.store.lock import excluding, locked, sharing
from als.store.reserve import keep_reserve, reserve_given_up
from tests.harness.ocilayout import Layout
from tests.harness.policy import ExpectedLogs
from tests.imagestore.shop import in_sight
from tests.life.stores import contents, image, pull


def invoke(service: Service, *arguments: str) -> str:
    where = ["--root", str(service.config.root), "--run", str(service.config.run)]
    done = CliRunner().invoke(cli, [*where, *arguments], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_a_reference_goes_and_another_keeps_the_image(service: Service, layout: Layout) -> None:
    one = image(layout, "one", "a", "b")
    pulled = pull(service, one)
    service.images.name("localhost/alias:1", pulled.digest, pulled.digest)
    removed = remove(service, one)
    assert (removed.names, removed.holders) == (("localhost/alias:1",), ())
    assert collect(service).layers == ()
    assert remove(service, str(pulled.digest)).references == ("localhost/alias:1",)
    assert set(collect(service).layers) == set(pulled.config.diff_ids)
    assert contents(service.layout.root) == set()
    with pytest.raises(NotFound):
        remove(service, one)


def test_shared_layers_stay(service: Service, layout: Layout) -> None:
    one, two = image(layout, "one", "a", "b"), image(layout, "two", "a", "c")
    pulled, other = pull(service, one), pull(service, two)
    remove(service, one)
    garbage = collect(service)
    assert garbage.layers == (pulled.config.diff_ids[1],)
    assert garbage.chains == (pulled.chain[1],)
    assert garbage.objects == 3
    assert set(service.diff_n.published()) == set(other.chain)
    assert fsck(service, deep=True).found == ()


def test_dry_run_changes_nothing(service: Service, layout: Layout) -> None:
    one = image(layout, "one", *(f"n{number}" for number in range(9)))
    pull(service, one)
    remove(service, one)
    (service.layout.tmp / "aborted").mkdir()
    before = contents(service.layout.root)
    would = collect(service, dry_run=True)
    assert contents(service.layout.root) == before
    assert len(would.layers) == len(would.chains) == 9 and would.attempts == 1 and would.bytes > 0
    assert collect(service) == would
    assert contents(service.layout.root) == set()


def test_a_use_keeps_what_it_needs(service: Service, layout: Layout) -> None:
    one = image(layout, "one", "a", "b", "c")
    pulled = pull(service, one)
    blob = pulled.manifest.layers[1].digest
    name = service.images.refs()[0].reference
    service.uses.change(name, str(blob), +1)
    service.serve_layer(name, blob, pulled, 1)
    assert [holder.kind for holder in remove(service, one).holders] == ["lookup"]
    assert collect(service).layers == (pulled.config.diff_ids[2],)
    assert service.known_image(name, blob) == pulled
    with Service(service.config) as restarted:
        recover(restarted)
        assert os.listdir(restarted.layers.mount_point(pulled.config.diff_ids[1]))
    service.uses.change(name, str(blob), -1)
    assert collect(service).links == 1
    assert contents(service.layout.root) == set()


def test_a_mount_keeps_what_it_shows(service: Service, layout: Layout, tmp_path: Path) -> None:
    one = image(layout, "one", "a", "b", "c")
    pulled = pull(service, one)
    links = [(service.diff_n.folder(chain) / "link").read_text() for chain in pulled.chain[:2]]
    lowers = ":".join(f"{service.layout.image_store_4}/overlay/l/{link}" for link in reversed(links))
    (tmp_path / "seen").mkdir()
    mount("overlay", tmp_path / "seen", "overlay", options=f"lowerdir={lowers},metacopy=off")
    try:
        assert {holder.name for holder in remove(service, one).holders} == {str(tmp_path / "seen")}
        assert collect(service).layers == (pulled.config.diff_ids[2],)
    finally:
        unmount(tmp_path / "seen")
    collect(service)
    assert contents(service.layout.root) == set()


def test_who_begins_to_use_a_layer_in_the_middle_keeps_it(
    service: Service, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client reads the list, then gc takes the layer out of it, then the client writes down what it uses."""
    one = image(layout, "one", "a", "b", "c")
    pulled = pull(service, one)
    remove(service, one)
    conf, graph = tmp_path / "storage.conf", tmp_path / "g"
    conf.write_text(f'[storage]\ngraphroot = "{graph}"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(conf))
    before = service.diff_n.published()
    original = service.diff_n.unlist

    def unlist(chain_ids: Collection[str]) -> list[dict[str, object]]:
        entries = original(chain_ids)
        if not graph.exists():
            assert service.diff_n.published() == {}
            assert in_sight(service.diff_n) == set(), "who pulls now by himself makes his own, elsewhere"
            assert service.diff_n.is_ready(pulled.chain[1]), "all there is of it can come back"
            (graph / "overlay-images").mkdir(parents=True)
            (graph / "overlay-images" / "images.json").write_text(json.dumps([{"id": "i", "layer": pulled.chain[1]}]))
        return entries

    monkeypatch.setattr(service.diff_n, "unlist", unlist)
    assert collect(service).layers == (pulled.config.diff_ids[2],)
    after = service.diff_n.published()
    assert after == {chain: before[chain] for chain in pulled.chain[:2]}
    assert in_sight(service.diff_n) == after.keys()
    assert fsck(service, deep=True).found == ()


def test_mounts_from_before_the_store_was_shared_can_be_removed(service: Service, layout: Layout) -> None:
    one = image(layout, "one", "a")
    pull(service, one)
    recover(service)
    remove(service, one)
    collect(service)
    assert contents(service.layout.root) == set()


def test_a_damaged_image_stops_gc(service: Service, layout: Layout) -> None:
    one = image(layout, "one", "a")
    pulled = pull(service, one)
    (service.layout.images / pulled.digest.hex / "image.json").write_text("{")
    with pytest.raises(StoreDamaged):
        collect(service)
    assert service.layers.ids() == list(pulled.config.diff_ids)


def test_gc_waits_for_pulls_only_so_long(service: Service) -> None:
    with sharing(service.layout.lock), pytest.raises(LockTimeout):
        collect(service, wait=0.1)


def test_gc_is_not_kept_out_by_pulls_that_follow_one_another(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    ended = threading.Event()
    overlap = threading.Barrier(2)

    def pulls() -> None:
        while not ended.is_set():
            with sharing(path, timeout=20):
                # Never lets go before the other one has it as well, unless somebody waits.
                try:
                    overlap.wait(0.05)
                except threading.BrokenBarrierError:
                    overlap.reset()

    threads = [threading.Thread(target=pulls) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with excluding(path, timeout=20), pytest.raises(LockTimeout), locked(path, exclusive=False, timeout=0):
            pass
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)


def test_the_reserve(service: Service) -> None:
    reserve = service.layout.reserve / "0"
    assert reserve.stat().st_blocks * 512 >= 256 << 10
    with reserve_given_up(service.layout):
        assert not reserve.exists()
    assert reserve.exists() and keep_reserve(service.layout)


def test_what_the_commands_say(service: Service, layout: Layout, expect_log: ExpectedLogs) -> None:
    one, two = image(layout, "one", "a", "b"), image(layout, "two", "a", "c")
    pull(service, one)
    pull(service, two)
    shown = invoke(service, "df", "--verbose")
    assert f"reference {one}" in shown and "KEPT BY" in shown
    by_layer = json.loads(invoke(service, "df", "--verbose", "--json"))["by_layer"]
    assert sorted(len(entry["holders"]) for entry in by_layer) == [1, 1, 2]
    assert all(entry["unique"] + entry["shared"] == entry["size"] > 0 for entry in by_layer)
    assert "nobody uses it" in invoke(service, "rm", one)
    assert "2 layers" not in invoke(service, "gc", "--dry-run")
    assert json.loads(invoke(service, "rm", two, "--json"))[0]["in_use"] == []
    assert "nobody" in invoke(service, "df", "-v")
    assert "nothing is wrong" in invoke(service, "fsck", "--deep")
    (service.layout.root / "als.toml").write_text('clients = ["/no/such/graph/root"]')
    expect_log("/no/such/graph/root")
    kept = json.loads(invoke(service, "--config", str(service.layout.root / "als.toml"), "gc", "--json"))
    assert kept["layers"] == [] and len(kept["unknown"]) == 1
    assert "0 images, 3 layers" in invoke(service, "gc"), "the images themselves no client can name"
    with pytest.raises(NotFound):
        invoke(service, "gc", "--forget", "/never")
