"""Starts of images: what is fetched before anybody reads, in which order, and what is recorded of what is read."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from als.erofs.profile import LAYER
from als.erofs.writer import write_image
from als.lazy.layer import LazyLayer
from als.lazy.link import DEFAULT_TUNING
from als.lazy.profile import Profile, Touched
from als.lazy.profiles import Profiles
from als.lazy.start import CompleteLayer, Start
from als.model.digest import Digest
from als.model.forest import FOREST
from als.model.tree import Content, Directory, FileType, Inode, Tree
from tests.formats.lazylayers import LazyLayer as Sample
from tests.formats.lazylayers import layers_of
from tests.formats.tocbuilder import Source, file, folder, zstd_podman
from tests.harness.registry import RegistryServer
from tests.lazy.elves import elf, ld_cache
from tests.lazy.faultyregistry import Answer, FaultyRegistry
from tests.lazy.site import TIMEOUT, Site, blobs_of, noise, read

LD = b"/lib64/ld.so"
KIB = 1 << 10


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def library(*needed: bytes, seed: int, size: int = 60_000) -> bytes:
    """No two are alike; what a loader reads is in front."""
    return elf(needed) + noise(size, seed)


PROGRAM = elf([b"liba.so", b"libb.so"], LD) + noise(90_000, 1)
FILES: Mapping[str, bytes] = {
    "bin/x": PROGRAM,
    "lib64/ld.so": elf() + noise(50_000, 2),
    "lib64/liba.so": library(b"libc.so", seed=3),
    "lib64/libb.so": library(b"libd.so", seed=4),
    "lib64/libc.so": library(b"libe.so", seed=5),
    "lib64/libd.so": library(seed=6),
    "lib64/libe.so": library(seed=7),
    "etc/ld.so.cache": ld_cache([]),
}
CONFIG = json.dumps({"config": {"Cmd": ["x"], "Env": ["PATH=/bin"]}}).encode()
FILLERS = 40


def sources(files: Mapping[str, bytes]) -> list[Source]:
    """The files far from each other, with others between them: nothing comes with its neighbour by chance."""
    found = [folder(name) for name in sorted({path.rpartition("/")[0] for path in files})]
    for number, (path, content) in enumerate(files.items()):
        found.append(file(path, content, mode=0o755))
        found += [file(f"between-{number}-{each}", noise(40_000, 1000 + 100 * number + each)) for each in range(FILLERS)]
    return found


def layer_of(files: Mapping[str, bytes]) -> Sample:
    return zstd_podman(sources(files), 20_000)


def whole(layer: LazyLayer, files: Mapping[str, bytes]) -> bool:
    return all(layer.whole_file(sha(content)) for content in files.values())


class Runs:
    """What was kept."""

    def __init__(self) -> None:
        self.kept: list[tuple[Profile, Container[bytes]]] = []

    def __call__(self, run: Profile, unseen: Container[bytes]) -> None:
        self.kept.append((run, unseen))


def test_a_closure_is_fetched_before_anything_else(site: Site) -> None:
    sample = layer_of(FILES)
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        start = Start(site.engine, CONFIG, [layer])
        start.begin()
        start.done.result(TIMEOUT)
        site.wait(lambda: whole(layer, FILES), "all of the closure")
        site.wait_idle(layer)
        assert start.end() is None
        # Of the fillers, only what a round trip would have cost more than.
        assert layer.progress.files_here < 2 * len(FILES) + FILLERS
        asked = len(registry.log)
        for content in FILES.values():
            assert read(layer, sha(content)) == content
        assert len(registry.log) == asked


def test_gates_do_not_wait_for_what_is_large(site: Site) -> None:
    """All answers about the large files hang; the closure becomes known all the same, as deep as it is."""
    sample = layer_of({**FILES, "bin/x": PROGRAM + noise(3_000_000, 8)})
    seen: list[int] = []

    def hang(answer: Answer) -> None:
        seen.append(answer.end - answer.start)
        if answer.end - answer.start > 700 * KIB:
            answer.stall = 0

    with FaultyRegistry(blobs_of(sample), fault=hang) as registry:
        layer = site.layer(registry, sample)
        start = Start(site.engine, CONFIG, [layer])
        start.begin()
        start.done.result(TIMEOUT)
        assert max(seen) > 700 * KIB, "something was held up"
        head = [content for path, content in FILES.items() if path != "bin/x"]
        assert all(layer.peek(sha(content), 0, 500) == content[:500] for content in head)


def test_a_wide_closure_costs_few_requests(site: Site) -> None:
    """Each library's head and the rest of it: two requests, and none twice."""
    deep = {
        "bin/x": elf([b"l0.so"], LD),
        "lib64/ld.so": elf() + b"1",
        **{f"lib64/l{n}.so": elf([b"l%d.so" % (n + 1)]) + b"%d" % n for n in range(3)},
        "lib64/l3.so": elf() + b"3",
    }
    wide = {
        **deep,
        "bin/x": elf([b"l0.so", *(b"w%d.so" % n for n in range(30))], LD),
        **{f"lib64/w{n}.so": elf([b"l0.so"]) + b"w%d" % n for n in range(30)},
    }
    for files in (deep, wide):
        sample = layer_of(files)
        with FaultyRegistry(blobs_of(sample)) as registry:
            layer = site.layer(registry, sample, f"img:{len(files)}")
            start = Start(site.engine, CONFIG, [layer])
            start.begin()
            start.done.result(TIMEOUT)
            assert whole(layer, files), "files that are their own heads are here when all is known"
            site.wait_idle(layer)
            assert len(registry.log) <= len(files)
            assert layer.progress.files_here < layer.progress.files // 4


def complete_layer(folder_: Path, files: Mapping[str, bytes]) -> CompleteLayer:
    """A finished layer as the store has it."""
    root = Directory(Inode(FileType.DIR, 0o755))
    (folder_ / "diff1" / FOREST).mkdir(parents=True)
    for path, content in files.items():
        *parents, name = path.encode().split(b"/")
        place = root
        for parent in parents:
            child = place.entries.setdefault(parent, Directory(Inode(FileType.DIR, 0o755)))
            assert isinstance(child, Directory)
            place = child
        place.entries[name] = Inode(FileType.FILE, 0o755, size=len(content), content=Content.of_sha256(sha(content)))
        (folder_ / "diff1" / FOREST / sha(content).hex()).write_bytes(content)
    out = io.BytesIO()
    write_image(Tree(root), out, LAYER)
    (folder_ / "layer.erofs").write_bytes(out.getvalue())
    return CompleteLayer(folder_ / "layer.erofs", folder_ / "diff1")


def test_layers_that_are_complete_and_layers_that_are_not(site: Site, tmp_path: Path) -> None:
    here = {path: content for path, content in FILES.items() if path in ("bin/x", "lib64/liba.so", "etc/ld.so.cache")}
    coming = {path: content for path, content in FILES.items() if path not in here}
    one = dict(list(coming.items())[:2])
    other = dict(list(coming.items())[2:])
    samples = [layer_of(one), zstd_podman([*sources(other), file("only", b"in this one")], 20_000)]
    with FaultyRegistry(blobs_of(*samples)) as registry:
        layers = [site.layer(registry, each, f"img:{number}") for number, each in enumerate(samples)]
        image: Sequence[LazyLayer | CompleteLayer] = [layers[0], complete_layer(tmp_path, here), layers[1]]
        start = Start(site.engine, CONFIG, image)
        start.begin()
        start.done.result(TIMEOUT)
        site.wait(lambda: whole(layers[0], one) and whole(layers[1], other), "all of the closure")


def test_a_real_registry(site: Site, registry_server: RegistryServer, fixtures_dir: Path) -> None:
    """The command of a real image is busybox or the like: it is all here before it is read."""
    layout = fixtures_dir / "zstdchunked-skopeo122-tiny"
    layout = next(path.parent for path in sorted(layout.rglob("index.json")))
    reference = registry_server.push(f"oci:{layout}", "start:1")
    samples = list(layers_of(layout))
    layers = [site.layer(registry_server.address, each, reference.partition("/")[2]) for each in samples]
    index = layers[0].index
    number = next(n for n in range(len(index)) if index.size(n) > 100)
    path = index.entry(number).path
    run = Profile((Touched(path, 0, ((0, 100),)),))
    start = Start(site.engine, b"{}", layers, profile=run)
    start.begin()
    start.done.result(TIMEOUT)
    name = index.sha256(number) or index.chunks_digest(number)
    site.wait(lambda: layers[0].peek(name, 0, 100) is not None, "what the profile names")


# -- profiles


def test_what_a_run_reads_is_fetched_first_next_time(site: Site) -> None:
    """The second store knows the profile alone, and has it all before anybody reads."""
    sample, image = layer_of(FILES), Digest.of(CONFIG)
    profiles = Profiles(site.layout)
    runs = Runs()
    late = [noise(40_000, 1000 + 100 * number + 20) for number in (1, 3, 5)]
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        start = Start(site.engine, b"{}", [layer], keep=runs)
        start.begin()
        for content in (*late, late[0]):
            assert read(layer, sha(content), 0, 30_000) == content[:30_000]
            start.read(sha(content), 0, 30_000)
        start.read(sha(b"of another image"), 0, 1)
        run = start.end()
        assert run is not None
        assert start.end() is run
        assert [(each.path, each.ranges) for each in run.files] == [
            (b"between-%d-20" % number, ((0, 30_000),)) for number in (1, 3, 5)
        ]
        ((kept, unseen),) = runs.kept
        assert kept is run
        profiles.add(image, run, unseen)
        site.stop()
        (site.layout.lazy / layer.key).rename(site.layout.tmp / "gone")
        site.start()
        asked = len(registry.log)
        again = site.layer(registry, sample)
        profile = profiles.get(image)
        assert profile == run
        firsts = [again.absent_units(sha(each), 0, 1)[0] for each in late]
        second = Start(site.engine, CONFIG, [again], profile=profile, keep=runs)
        second.begin()
        site.wait(lambda: all(again.peek(sha(each), 0, 30_000) == each[:30_000] for each in late), "the profile's bytes")
        second.done.result(TIMEOUT)
        site.wait(lambda: whole(again, FILES), "the closure as well")
        # So many at once, and these go first.
        offsets = {again.index.unit(unit).offset for unit in firsts}
        assert offsets <= {first for first, _, _ in registry.log[asked : asked + DEFAULT_TUNING.ahead_least]}
        assert second.end() is None
        assert len(runs.kept) == 1


@pytest.fixture
def one_file(site: Site) -> Iterator[tuple[LazyLayer, bytes]]:
    content = noise(1000, 1)
    sample = zstd_podman([file("f", content), file("same", content), file("other", noise(100, 2))])
    with FaultyRegistry(blobs_of(sample)) as registry:
        yield site.layer(registry, sample), sha(content)


def test_the_record_is_kept_when_its_window_is_over(site: Site, one_file: tuple[LazyLayer, bytes]) -> None:
    layer, name = one_file
    runs = Runs()
    start = Start(site.engine, b"{}", [layer], keep=runs, window=0.05)
    start.begin()
    start.read(name, 0, 10)
    site.wait(lambda: bool(runs.kept), "the end of the window")
    start.read(name, 10, 900)
    run = start.end()
    assert run is not None
    assert [each.ranges for each in run.files] == [((0, 10),)]
    assert len(runs.kept) == 1


def test_files_that_are_here_already_are_not_missed(site: Site, one_file: tuple[LazyLayer, bytes]) -> None:
    layer, name = one_file
    before = Profile((Touched(b"f", 0, ((0, 1000),)), Touched(b"other", 1, ((0, 5),)), Touched(b"gone", 2, ((0, 5),))))
    read(layer, name)
    site.wait_idle(layer)
    runs = Runs()
    start = Start(site.engine, b"{}", [layer], profile=before, keep=runs, limit=0.0)
    start.read(sha(noise(100, 2)), 0, 7)
    start.end()
    ((run, unseen),) = runs.kept
    assert [(each.path, each.missed) for each in before.joined(run, unseen).files] == [(b"f", 0), (b"other", 0), (b"gone", 1)]


def test_nothing_is_recorded_where_that_is_switched_off(site: Site, one_file: tuple[LazyLayer, bytes]) -> None:
    layer, name = one_file
    image = Digest.of(b"config")
    run = Profile((Touched(b"f", 0, ((0, 1),)),))
    Profiles(site.layout).add(image, run)
    off = Profiles(site.layout, on=False)
    assert off.get(image) is None
    off.add(image, Profile((Touched(b"g", 0, ((0, 1),)),)))
    assert Profiles(site.layout).get(image) == run
    start = Start(site.engine, b"{}", [layer])
    start.read(name, 0, 1)
    assert start.end() is None


def test_profiles_of_images_that_are_gone_are_forgotten(
    site: Site, expect_log: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    expect_log("a profile that als did not write")
    profiles = Profiles(site.layout)
    one, other = Digest.of(b"1"), Digest.of(b"2")
    run = Profile((Touched(b"f", 0, ((0, 1),)),))
    profiles.add(one, run)
    profiles.add(other, run)
    assert profiles.forget_profiles([one]) == 1
    assert (profiles.get(one), profiles.get(other)) == (run, None)
    assert os.listdir(site.layout.profiles) == [f"{one.hex}.json"]
    (site.layout.profiles / f"{one.hex}.json").write_bytes(b"x")
    assert profiles.get(one) is None
    profiles.add(one, run)
    assert profiles.get(one) == run


# -- what strangers and the network may do


@pytest.mark.parametrize(
    "config", [b"", b"[]", b'{"config": {"Cmd": "x"}}', b'{"config": {"Cmd": ["' + b"x" * 100_000 + b'"]}}']
)
def test_configurations_that_say_nothing(site: Site, one_file: tuple[LazyLayer, bytes], config: bytes) -> None:
    layer, name = one_file
    start = Start(site.engine, config, [layer], profile=Profile((Touched(b"f", 0, ((0, 10),)),)))
    start.begin()
    start.done.result(TIMEOUT)
    site.wait(lambda: layer.peek(name, 0, 10) is not None, "what the profile says")
    start.end()


def test_libraries_without_end(site: Site) -> None:
    """Each needs the next: it ends with the files that are looked into, and the rest of the layer is left alone."""
    files = {f"lib64/l{n}.so": elf([b"l%d.so" % (n + 1), b"l%d.so" % (n + 2)]) + b"%d" % n for n in range(900)}
    sample = zstd_podman([file(path, content, mode=0o755) for path, content in {**files, "bin/x": elf([b"l0.so"], LD)}.items()])
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        layer.fill()
        start = Start(site.engine, CONFIG, [layer])
        start.begin()
        start.done.result(TIMEOUT)
        start.end()


def test_gates_that_do_not_come_are_not_waited_for_for_ever(site: Site) -> None:
    sample = layer_of(FILES)

    def hang(answer: Answer) -> None:
        answer.stall = 0

    with FaultyRegistry(blobs_of(sample), fault=hang) as registry:
        layer = site.layer(registry, sample)
        start = Start(site.engine, CONFIG, [layer], limit=0.3)
        start.begin()
        start.done.result(5.0)
        start.end()


def test_a_metadata_image_that_is_damaged(site: Site, tmp_path: Path) -> None:
    damaged = complete_layer(tmp_path, {"bin/x": PROGRAM})
    damaged.image.write_bytes(b"x" * 8192)
    start = Start(site.engine, CONFIG, [damaged])
    start.begin()
    start.done.result(TIMEOUT)
    assert start.end() is None
