"""Registries that stall, die, lie and change tokens, seen from a mount: EIO in time, a line in the log, nothing wrong kept."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.system import wait_until
from tests.lazily.conftest import Open
from tests.lazily.images import FLAVOURS, contents, layer
from tests.lazily.site import QUIET, Shop, Site
from tests.lazy.faultyregistry import Answer, Fault
from tests.lazy.site import noise
from tests.lazy.test_lazy_faults import cut, die, flip, flip_one, no_content_range, other_size, shifted, short, stall, status

DEADLINE = 3.0
SLACK = 2.0
AGAIN = 3.0
FILES = contents(6, 60_000)
NAME = "d/0003"
BOTH = pytest.mark.parametrize("flavour", FLAVOURS)


def empty(answer: Answer) -> None:
    """Less than was asked for, and honest about it: nothing but the first byte."""
    answer.body = answer.body[:1]
    answer.headers["Content-Range"] = re.sub(r"-\d+/", f"-{answer.start}/", answer.headers["Content-Range"])


FAULTS: dict[str, Fault] = {
    **{str(number): status(number) for number in (401, 403, 404, 416, 429, 500, 503)},
    "dies": die,
    "stalls before": stall(0),
    "stalls within": stall(10),
    "cut": cut(1),
    "wrong bytes": flip,
    "short": empty,
    "shifted": shifted,
    "no Content-Range": no_content_range,
    "other size": other_size,
}
"""After none of these anything of use is here."""


def try_to_read(path: Path) -> tuple[int, float]:
    """The errno of it (0: none) and the seconds that it took."""
    begun = time.monotonic()
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno or -1, time.monotonic() - begun
    return 0, time.monotonic() - begun


def reads_again(path: Path, data: bytes) -> None:
    """The file reads, at the latest after the moment for which als remembers that it did not."""
    wait_until(lambda: not try_to_read(path)[0], f"{path} reads again", AGAIN)
    assert path.read_bytes() == data


def only_right_bytes(site: Site) -> None:
    """Whatever of a lazy layer is on disk, and whatever is in the store, is right."""
    known = {hashlib.sha256(data).hexdigest(): data for data in FILES.values()}
    for path in (*site.als.root.glob("lazy/*/diff1/.als/*"), *site.als.root.glob("objects/*/*")):
        name = path.name if len(path.name) == 64 else path.parent.name + path.name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == name
    for path in site.als.root.glob("lazy/*/parts/*"):
        data, found = known[path.name], path.read_bytes()
        assert all(byte in (0, right) for byte, right in zip(found, data, strict=True))


@BOTH
def test_every_fault_ends_in_time_and_is_forgotten(opened: Open, shop: Shop, flavour: str) -> None:
    """All faults at once, each with a layer of its own. A denial renews the credentials of all of its image."""
    files = {what: f"d/{what.replace(' ', '-')}" for what in FAULTS}
    data = {what: noise(60_000, 300 + number) for number, what in enumerate(FAULTS)}
    site = opened({**QUIET, "lookup_deadline": DEADLINE})
    digests: dict[str, str] = {}
    references: dict[str, str] = {}
    paths: dict[str, Path] = {}
    for number, whats in enumerate((["401"], ["403"], [what for what in FAULTS if what not in ("401", "403")])):
        samples = [layer(flavour, {files[what]: data[what]}) for what in whats]
        image = shop.image(f"fault-{flavour.replace(':', '-')}-{number}", samples)
        site.look_up(image)
        root = site.mount_by_chain(image)
        digests |= dict(zip(whats, image.blobs, strict=True))
        references |= dict.fromkeys(whats, image.reference)
        paths |= {what: root / files[what] for what in whats}
    faults = {digests[what]: fault for what, fault in FAULTS.items()}
    site.proxy.fault = lambda answer: faults[answer.path.rpartition("/")[2]](answer)
    with ThreadPoolExecutor(len(FAULTS)) as pool:
        found = dict(zip(FAULTS, pool.map(lambda what: try_to_read(paths[what]), FAULTS), strict=True))
    assert {what: number for what, (number, _) in found.items()} == dict.fromkeys(FAULTS, errno.EIO)
    assert not {what: seconds for what, (_, seconds) in found.items() if seconds > DEADLINE + SLACK}
    log = site.als.log_text().splitlines()
    for what, digest in digests.items():
        lines = [line for line in log if digest in line and references[what] in line and site.proxy.address in line]
        assert any(re.search(r"bytes[ =]\d+(-| to )\d+", line) for line in lines), (
            f"{what}: no line has reference, digest, range"
        )
        if what.isdigit() and what != "416":
            said = "does not have it" if what == "404" else f" {what}"
            assert any(said in line for line in lines), f"no line says {what}: {lines}"
    assert not [*site.als.root.glob("lazy/*/diff1/.als/*")]
    assert not any(any(path.read_bytes()) for path in site.als.root.glob("lazy/*/parts/*")), "nothing of it was kept"
    site.proxy.fault = None
    for what, path in paths.items():
        reads_again(path, data[what])


@BOTH
def test_an_open_file_reads_on_when_the_registry_is_back(opened: Open, shop: Shop, flavour: str) -> None:
    """The registry's process ends, and begins again at the same address; the reader has its file open all the time."""
    image = shop.image(f"gone-{flavour.replace(':', '-')}", [layer(flavour, FILES)])
    site = opened({**QUIET, "lookup_deadline": DEADLINE})
    site.look_up(image)
    root = site.mount_by_lookup(image)
    site.proxy.stop()
    fd = os.open(root / NAME, os.O_RDONLY | os.O_CLOEXEC)
    try:
        begun = time.monotonic()
        with pytest.raises(OSError, match="Input/output error"):
            os.pread(fd, 100, 0)
        assert time.monotonic() - begun < DEADLINE + SLACK
        assert site.proxy.address in site.als.log_text()
        site.proxy.start()
        reads_again(root / NAME, FILES[NAME])
        assert os.pread(fd, 1 << 20, 0) == FILES[NAME]
    finally:
        os.close(fd)
    only_right_bytes(site)


def test_a_registry_that_comes_back_in_time_is_not_noticed(opened: Open, shop: Shop) -> None:
    image = shop.image("away", [layer("zstd:chunked", FILES)])
    site = opened({**QUIET, "lookup_deadline": 20.0})
    site.look_up(image)
    root = site.mount_by_lookup(image)
    failures = threading.Semaphore(0)

    def unavailable(answer: Answer) -> None:
        status(503)(answer)
        failures.release()

    site.proxy.fault = unavailable
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit((root / NAME).read_bytes)
        assert failures.acquire(timeout=10)
        assert failures.acquire(timeout=10), "it asks again"
        site.proxy.fault = None
        assert reading.result(20) == FILES[NAME]


@pytest.mark.parametrize(
    ("what", "fault", "flavour"),
    [("bit", flip_one, "zstd:chunked"), ("half", short, "estargz"), ("cut", cut(40_000), "zstd:chunked")],
    ids=["bit", "half", "cut"],
)
def test_what_is_right_of_a_bad_answer_is_used(opened: Open, shop: Shop, what: str, fault: Fault, flavour: str) -> None:
    image = shop.image(what, [layer(flavour, FILES)])
    site = opened({**QUIET, "lookup_deadline": 20.0})
    site.look_up(image)
    root = site.mount_by_chain(image)
    left = [2]

    def twice(answer: Answer) -> None:
        left[0] -= 1
        if left[0] >= 0:
            fault(answer)

    site.proxy.fault = twice
    assert all((root / name).read_bytes() == data for name, data in FILES.items())
    only_right_bytes(site)


def test_tokens_that_expire_in_the_middle(opened: Open, shop: Shop) -> None:
    files = contents(6, 200_000)
    image = shop.image("token", [layer("estargz", files)])
    site = opened(QUIET)
    site.proxy.token = "first"
    site.look_up(image)
    root = site.mount_by_chain(image)
    for number, (name, data) in enumerate(files.items()):
        site.proxy.token = f"token-{number}"
        assert (root / name).read_bytes() == data
