"""Registries that fail, stall and lie: right bytes or a clear error within the deadline, and nothing wrong is kept."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from als.errors import (
    AlsError,
    BadImage,
    DeadlineExceeded,
    NotFound,
    RegistryDenied,
    RegistryError,
    RegistryUnavailable,
    StoreFull,
)
from als.lazy.layer import LazyLayer
from als.lazy.partial import LazyFolder
from als.model.forest import FOREST
from als.worker.client import Workers
from tests.formats.lazylayers import LazyLayer as Sample
from tests.formats.tocbuilder import estargz, file, zstd_podman
from tests.harness.system import wait_until
from tests.lazy.faultyregistry import Answer, Fault, FaultyRegistry
from tests.lazy.site import TIMEOUT, Site, blobs_of, noise, read

Expect = Callable[[str], None]
DATA = [noise(60_000, number) for number in range(8)]
NAMES = [hashlib.sha256(data).digest() for data in DATA]


@pytest.fixture
def site(module_dir: Path, workers: Workers) -> Iterator[Site]:
    """One that does not wait long for bytes."""
    with Site(Path(tempfile.mkdtemp(prefix="s", dir=module_dir)), workers, stall=0.6) as found:
        yield found


def sample_of(flavour: str) -> Sample:
    sources = [file(str(number), data) for number, data in enumerate(DATA)]
    return estargz(sources, 20_000) if flavour == "estargz" else zstd_podman(sources, 20_000)


def first(count: int, fault: Fault) -> Fault:
    """The fault for the first so many answers."""
    left = [count]

    def maybe(answer: Answer) -> None:
        left[0] -= 1
        if left[0] >= 0:
            fault(answer)

    return maybe


def status(number: int) -> Fault:
    def fault(answer: Answer) -> None:
        answer.status, answer.body, answer.headers = number, b"", {}

    return fault


def cut(at: int) -> Fault:
    def fault(answer: Answer) -> None:
        answer.cut = min(at, len(answer.body) - 1)

    return fault


def stall(at: int) -> Fault:
    def fault(answer: Answer) -> None:
        answer.stall = at

    return fault


def die(answer: Answer) -> None:
    answer.dead = True


def flip(answer: Answer) -> None:
    answer.body = bytes(byte ^ 0x55 for byte in answer.body)


def flip_one(answer: Answer) -> None:
    middle = len(answer.body) // 2
    answer.body = answer.body[:middle] + bytes([answer.body[middle] ^ 1]) + answer.body[middle + 1 :]


def short(answer: Answer) -> None:
    """Less than was asked for, and honest about it."""
    answer.body = answer.body[: len(answer.body) // 2]
    answer.headers["Content-Range"] = answer.headers["Content-Range"].replace(
        f"-{answer.end - 1}/", f"-{answer.start + len(answer.body) - 1}/"
    )


def shifted(answer: Answer) -> None:
    answer.headers["Content-Range"] = answer.headers["Content-Range"].replace(f" {answer.start}-", f" {answer.start + 1}-")


def no_content_range(answer: Answer) -> None:
    answer.headers.pop("Content-Range", None)


def other_size(answer: Answer) -> None:
    answer.headers["Content-Range"] = answer.headers["Content-Range"].rpartition("/")[0] + "/99999999"


def encoded(answer: Answer) -> None:
    answer.headers["Content-Encoding"] = "gzip"


def beyond(answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 416, b"", {"Content-Range": "bytes */10"}


FAULTS: dict[str, Fault] = {
    **{str(number): status(number) for number in (400, 401, 403, 416, 429, 500, 501, 502, 503)},
    "cut at 0": cut(0),
    "cut at 1": cut(1),
    "cut at 30000": cut(30_000),
    "death": die,
    "stall before": stall(0),
    "stall within": stall(30_000),
    "wrong bytes": flip,
    "one wrong bit": flip_one,
    "short": short,
    "shifted": shifted,
    "no Content-Range": no_content_range,
    "other size": other_size,
    "encoded": encoded,
    "beyond": beyond,
}


def only_right_bytes(layer: LazyLayer) -> None:
    """Whatever is on disk is right."""
    for path in (layer.folder.forest / ".als").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    for path in (layer.folder.path / "parts").iterdir():
        data = DATA[NAMES.index(bytes.fromhex(path.name))]
        found = path.read_bytes()
        for start in range(0, len(data), 20_000):
            assert found[start : start + 20_000] in (data[start : start + 20_000], bytes(20_000))


@pytest.mark.parametrize(
    ("what", "flavour"), [*((what, "podman") for what in FAULTS), ("wrong bytes", "estargz"), ("cut at 30000", "estargz")]
)
def test_one_failure_is_not_noticed(site: Site, expect_log: Expect, what: str, flavour: str) -> None:
    expect_log("sha256:")
    sample = sample_of(flavour)
    with FaultyRegistry(blobs_of(sample), first(1, FAULTS[what])) as registry:
        layer = site.layer(registry, sample)
        for name, data in zip(NAMES, DATA, strict=True):
            assert read(layer, name) == data
        layer.fill()
        layer.content.result(TIMEOUT)
    only_right_bytes(layer)


PROGRESS = {"cut at 30000", "one wrong bit", "short"}
"""After these something is right each time."""


@pytest.mark.parametrize("what", sorted(PROGRESS))
def test_little_by_little_everything_comes(site: Site, expect_log: Expect, what: str) -> None:
    expect_log("sha256:")
    sample = sample_of("podman")
    with FaultyRegistry(blobs_of(sample), FAULTS[what]) as registry:
        layer = site.layer(registry, sample)
        assert read(layer, NAMES[5], 30_000, 10) == DATA[5][30_000:30_010]
    only_right_bytes(layer)


@pytest.mark.parametrize("what", [*(what for what in FAULTS if what not in PROGRESS), "404"])
def test_failure_for_good_ends_within_the_deadline_and_is_forgotten(
    site: Site, expect_log: Expect, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    expect_log("sha256:")
    sample = sample_of("podman")
    fault = FAULTS.get(what, status(404))
    with FaultyRegistry(blobs_of(sample), fault) as registry:
        layer = site.layer(registry, sample)
        begun = time.monotonic()
        with pytest.raises(AlsError) as caught:
            read(layer, NAMES[5], 30_000, 10, timeout=1.5)
        assert time.monotonic() - begun < 2.0
        error = caught.value
        for part in (f"{registry.address}/img:1", str(sample.descriptor.digest), registry.address):
            assert part in str(error), "an error names reference, digest and host"
        assert "bytes" in str(error)
        if what.isdigit() and what != "416":
            assert f"{what}" in str(error) or isinstance(error, NotFound)
        assert str(error) in caplog.text, "and so does the log"
        if what == "404":
            assert time.monotonic() - begun < 1.0
        only_right_bytes(layer)
        registry.fault = None
        assert read(layer, NAMES[5], 30_000, 10) == DATA[5][30_000:30_010]
        for name, data in zip(NAMES, DATA, strict=True):
            assert read(layer, name) == data
    only_right_bytes(layer)


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("401", RegistryDenied),
        ("404", NotFound),
        ("503", RegistryUnavailable),
        ("wrong bytes", BadImage),
        ("shifted", RegistryError),
        ("death", RegistryUnavailable),
        ("stall before", RegistryUnavailable),
    ],
)
def test_errors_have_their_own_kind(site: Site, expect_log: Expect, what: str, kind: type[AlsError]) -> None:
    expect_log("sha256:")
    sample = sample_of("podman")
    with FaultyRegistry(blobs_of(sample), FAULTS.get(what, status(404))) as registry, pytest.raises(kind):
        read(site.layer(registry, sample), NAMES[5], timeout=1.5)


def test_a_registry_that_is_not_there(site: Site, expect_log: Expect) -> None:
    expect_log("sha256:")
    sample = sample_of("podman")
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
    with pytest.raises(RegistryUnavailable, match="refused"):
        read(layer, NAMES[0], timeout=1.0)


def test_a_connection_cut_at_any_byte(site: Site, expect_log: Expect) -> None:
    """Every answer brings a few more bytes than the last one, and is cut there."""
    expect_log("sha256:")
    sample = sample_of("podman")
    count = [0]

    def fault(answer: Answer) -> None:
        count[0] += 1
        answer.cut = min(count[0] * 2357 % 40_000, len(answer.body) - 1) if count[0] < 40 else None

    with FaultyRegistry(blobs_of(sample), fault) as registry:
        layer = site.layer(registry, sample)
        layer.fill()
        layer.content.result(TIMEOUT)
        for name, data in zip(NAMES, DATA, strict=True):
            assert read(layer, name) == data
    only_right_bytes(layer)


def test_a_server_without_ranges(site: Site) -> None:
    sample = sample_of("estargz")
    with FaultyRegistry(blobs_of(sample), ranged=False) as registry:
        layer = site.layer(registry, sample)
        assert read(layer, NAMES[6], 100, 100) == DATA[6][100:200]
        layer.fill()
        layer.content.result(TIMEOUT)
        # Once the whole blob passed by, all of it was taken.
        assert len(registry.log) == 1


def test_a_server_without_ranges_that_breaks_off(site: Site, expect_log: Expect) -> None:
    expect_log("sha256:")
    sample = sample_of("estargz")
    with FaultyRegistry(blobs_of(sample), first(2, cut(200_000)), ranged=False) as registry:
        layer = site.layer(registry, sample)
        for name, data in reversed(list(zip(NAMES, DATA, strict=True))):
            assert read(layer, name) == data


def test_a_token_that_expires_in_the_middle(site: Site) -> None:
    sample = sample_of("podman")
    with FaultyRegistry(blobs_of(sample), token="first") as registry:
        layer = site.layer(registry, sample)
        for number, (name, data) in enumerate(zip(NAMES, DATA, strict=True)):
            registry.token = f"token-{number}"
            assert read(layer, name) == data


def test_one_bad_chunk_does_not_hold_up_the_others(site: Site, expect_log: Expect) -> None:
    expect_log("not those that the index promises|damaged")
    sample = sample_of("podman")
    bad = sample.blob.index(DATA[3][:100])

    def fault(answer: Answer) -> None:
        if answer.start <= bad < answer.end:
            at = bad - answer.start + 50
            answer.body = answer.body[:at] + bytes([answer.body[at] ^ 1]) + answer.body[at + 1 :]

    with FaultyRegistry(blobs_of(sample), fault) as registry:
        layer = site.layer(registry, sample)
        layer.fill()
        site.wait(lambda: layer.progress.files_here == 7)
        with pytest.raises(BadImage):
            read(layer, NAMES[3], 0, 10, timeout=5.0)
        # The other chunks of the same file are right.
        assert read(layer, NAMES[3], 20_000, 10) == DATA[3][20_000:20_010]
        only_right_bytes(layer)
        registry.fault = None
        layer.content.result(TIMEOUT)
        assert read(layer, NAMES[3]) == DATA[3]


def test_many_readers_of_a_registry_that_stalls(site: Site, expect_log: Expect) -> None:
    expect_log("sha256:")
    sample = sample_of("podman")
    with FaultyRegistry(blobs_of(sample), stall(0)) as registry:
        layer = site.layer(registry, sample)
        begun = time.monotonic()
        futures = [layer.read(name, offset, 10, 1.5) for name in NAMES for offset in (0, 30_000, 59_000)]
        for future in futures:
            with pytest.raises((RegistryUnavailable, DeadlineExceeded)):
                future.result(TIMEOUT)
        assert time.monotonic() - begun < 2.5
        begun = time.monotonic()
    site.stop()
    assert time.monotonic() - begun < 2.0, "nothing holds up the end of the daemon"
    site.start()


def test_a_full_disk_is_said_at_once(module_dir: Path, site: Site, expect_log: Expect) -> None:
    expect_log("sha256:")
    sample = sample_of("podman")
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        parts = layer.folder.path / "parts"
        parts.rmdir()
        begun = time.monotonic()
        with pytest.raises(AlsError, match="cannot be written"):
            read(layer, NAMES[0])
        assert time.monotonic() - begun < 5
        parts.mkdir()
        assert read(layer, NAMES[0]) == DATA[0]


def test_a_file_that_could_not_be_finished_is_finished_by_the_next_who_reads(
    site: Site, monkeypatch: pytest.MonkeyPatch, expect_log: Expect
) -> None:
    """All of its chunks were here, but no room for its name among the objects."""
    expect_log("no space")
    sample = sample_of("podman")
    refused: list[bytes] = []

    def full(_: object, name: bytes, *__: object) -> None:
        refused.append(name)
        raise StoreFull("no space left", where=name.hex())

    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        here = layer.folder.path / "diff1" / FOREST
        with monkeypatch.context() as patch:
            patch.setattr(LazyFolder, "finish", full)
            for name in NAMES:
                with contextlib.suppress(AlsError):
                    read(layer, name)
            wait_until(lambda: bool(refused), "a file that cannot be finished")
            # What is in the air would be refused while the next read waits for it, or be finished before the next look.
            site.wait_idle(layer)
            assert not [name for name in refused if (here / name.hex()).exists()]
        for name, data in zip(NAMES, DATA, strict=True):
            assert read(layer, name) == data
        wait_until(lambda: all((here / name.hex()).exists() for name in refused), "finished files")
