"""Real podmans run containers of images that are not here yet: 5.4 by the layer store, 5.8 by image store and mirror."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CACHE
from tests.harness.archives import diff_ids_of_archive, pushed_diff_ids
from tests.harness.blobproxy import BlobProxy, Hold
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack
from tests.harness.system import Completed, wait_until
from tests.lazily.images import FLAVOURS, layer, runnable
from tests.lazily.site import Lazy, Shop
from tests.lazy.site import noise

DEADLINE = 5.0
FILES = {
    "d/early": noise(300_000, 61),
    "d/small": noise(20_000, 62),
    "d/held": noise(900_000, 63),
    "d/middle": noise(2_500_000, 64),
    "d/locked": noise(900_000, 65),
    "d/late": noise(300_000, 66),
}
SUMS = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}


@dataclass
class Shipped:
    """A podman, a daemon, and an image of which parts do not come."""

    stack: Stack
    image: Lazy
    proxy: BlobProxy
    elsewhere: RegistryServer
    held: Hold
    locked: Hold

    @property
    def sent(self) -> int:
        """Bytes of the layer with the data that came."""
        return self.proxy.sent_bytes(self.image.blobs[1])

    def podman(self, *arguments: str | Path, status: int | None = 0) -> Completed:
        return self.stack.podman(*arguments, status=status)

    def sums(self, container: str, *names: str) -> dict[str, str]:
        """What a running container reads."""
        out = self.podman("exec", container, "sha256sum", *(f"/{name}" for name in names)).stdout.decode()
        return {path.lstrip("/"): digest for digest, _, path in (line.partition("  ") for line in out.splitlines())}

    def is_here(self, name: str) -> bool:
        """Whether the file is complete, and so native for who opens it now."""
        return bool(list(self.stack.als.root.glob(f"lazy/*/diff1/.als/{SUMS[name]}")))


@pytest.fixture
def elsewhere(module_dir: Path) -> Iterator[RegistryServer]:
    with RegistryServer(Path(tempfile.mkdtemp(prefix="e", dir=module_dir))) as server:
        yield server


@pytest.fixture(params=[(suite, flavour) for suite in ("trixie", "forky") for flavour in FLAVOURS], ids="-".join)
def shipped(
    request: pytest.FixtureRequest,
    as_root: None,
    module_dir: Path,
    shop: Shop,
    elsewhere: RegistryServer,
) -> Iterator[Shipped]:
    suite, flavour = request.param
    try:
        binaries = binaries_of(suite, CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))
    data = layer(flavour, FILES)
    image = shop.image(f"podman/{suite}-{flavour.replace(':', '-')}", [runnable(flavour), data])
    holds = []
    for name in ("d/held", "d/locked"):
        # From its second chunk on.
        begin = data.blob.index(FILES[name][300_000:300_064])
        holds.append(shop.proxy.hold(image.blobs[1], begin, begin + 500_000))
    base = Path(tempfile.mkdtemp(prefix="p", dir=module_dir))
    settings = {"lazy": "always", "record_profiles": False, "background": False, "lookup_deadline": DEADLINE}
    hosts = (shop.proxy.address, elsewhere.address)
    with Stack(base, shop.registry, binaries, insecure=hosts, mirror=suite == "forky", settings=settings) as stack:
        yield Shipped(stack, image, shop.proxy, elsewhere, *holds)
        print(stack.als.log_text()[-6000:])


def first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 60)
    assert ready, "nothing was printed"
    return os.read(process.stdout.fileno(), 1000)


def test_a_container_runs_while_its_image_comes(shipped: Shipped) -> None:
    reference, podman = shipped.image.reference, shipped.podman
    begun = time.monotonic()
    one = shipped.stack.podman.start("run", "--name", "one", "-q", reference, "sh", "-c", "echo first; sha256sum /d/held")
    assert first_line(one) == b"first\n"
    took = time.monotonic() - begun
    whole = shipped.image.manifest.layers[1].size
    assert shipped.sent < whole // 4, "it runs though most of it is far away"
    wait_until(lambda: shipped.held.waiting > 0, "the container wants what is held back")
    assert one.poll() is None
    shipped.held.open()
    out, errors = one.communicate(timeout=60)
    assert (one.returncode, out.split()[:1]) == (0, [SUMS["d/held"].encode()]), errors
    print(f"first output after {took:.2f} s and {shipped.sent} of {whole} bytes")
    _use_it(shipped)
    _export_too_early(shipped)
    shipped.locked.open()
    # als remembers for a moment that it did not come.
    wait_until(
        lambda: not podman("exec", "two", "cat", "/d/locked", status=None).returncode, "it reads on, now that it comes", 10
    )
    assert shipped.sums("two", "d/locked") == {"d/locked": SUMS["d/locked"]}
    shipped.stack.als.cli("wait", reference, deadline=60)
    _export(shipped)
    shipped.stack.als.stop(signal.SIGKILL)
    assert shipped.sums("two", "d/small") == {"d/small": SUMS["d/small"]}, "it was here when it was opened first"
    out = podman("run", "--rm", "--pull=never", reference, "sha256sum", *(f"/{name}" for name in FILES)).stdout
    assert [line.split()[0] for line in out.decode().splitlines()] == list(SUMS.values())
    podman("run", "--rm", "--pull=never", "localhost/late", "cat", "/d/new")
    shipped.stack.als.start()
    podman("rm", "-f", "-t", "0", "one", "two")
    podman("rmi", reference, "localhost/late")
    assert not shipped.stack.podman.json("images", "--format", "json") or reference not in podman("images").stdout.decode()


def _use_it(shipped: Shipped) -> None:
    """What people do with a container, and with an image, works while part of the image is missing."""
    reference, podman = shipped.image.reference, shipped.podman
    podman("run", "-d", "--name", "two", "--pull=never", reference, "sh", "-c", "echo hi >/d/new; exec sleep 1000")
    # Of a request for the end of a file, and that alone, the next file is within the least that it takes along on any link.
    podman("exec", "two", "tail", "-c", "1", "/d/early")
    wait_until(lambda: shipped.is_here("d/small"), "a small file that came with the one before it")
    assert shipped.sums("two", "d/early") == {"d/early": SUMS["d/early"]}
    assert shipped.sums("two", "d/small") == {"d/small": SUMS["d/small"]}
    (image,) = (each for each in shipped.stack.podman.json("images", "--format", "json") if reference in (each["Names"] or ()))
    assert image["Size"] > 0
    (inspected,) = shipped.stack.podman.json("inspect", reference)
    assert inspected["RootFS"]["Layers"] == [str(each) for each in shipped.image.diff_ids]
    podman("system", "df")
    podman("image", "tree", reference)
    assert "A /d/new" in podman("diff", "two").stdout.decode().splitlines()
    podman("stop", "-t", "0", "two")
    podman("start", "two")
    assert podman("exec", "two", "cat", "/d/new").stdout == b"hi\n"
    assert shipped.sums("two", "d/small") == {"d/small": SUMS["d/small"]}
    assert (
        podman("exec", "two", "sh", "-c", "mv /d/late /d/moved && echo more >>/d/moved && wc -c </d/moved").stdout
        == b"300005\n"
    )
    podman("exec", "two", "rm", "/d/moved")
    assert "D /d/late" in podman("diff", "two").stdout.decode().splitlines()


def _export_too_early(shipped: Shipped) -> None:
    """Whoever wants all of the image while part of it does not come is told so in time, and gets nothing."""
    archive = shipped.stack.podman.base / "early.tar"
    commands: dict[str, list[str]] = {
        "save": ["save", "-q", "-o", str(archive), shipped.image.reference],
        "push": ["push", "-q", "--retry=0", shipped.image.reference, f"{shipped.elsewhere.address}/early:1"],
        "commit": ["commit", "-q", "two", "localhost/early"],
    }
    begun = time.monotonic()
    with ThreadPoolExecutor(len(commands)) as pool:
        found = dict(zip(commands, pool.map(lambda words: shipped.podman(*words, status=None), commands.values()), strict=True))
    took = time.monotonic() - begun
    for what, done in found.items():
        print(f"{what} while it is lazy: {done.returncode} {done.stderr.decode()[-500:]}")
        assert done.returncode == 125
        assert done.stderr
    assert took < 4 * DEADLINE
    assert shipped.image.blobs[1] in shipped.stack.als.log_text(), "the log says why"
    assert not [row for row in shipped.elsewhere.requests() if row[0] == "PUT" and "/manifests/" in row[1]]
    assert "localhost/early" not in shipped.podman("images").stdout.decode()


def _export(shipped: Shipped) -> None:
    diff_ids = [str(each) for each in shipped.image.diff_ids]
    archive = shipped.stack.podman.base / "saved.tar"
    shipped.podman("save", "-q", "-o", archive, shipped.image.reference)
    assert diff_ids_of_archive(archive) == diff_ids
    pushed = f"{shipped.elsewhere.address}/late:1"
    shipped.podman("push", "-q", shipped.image.reference, pushed)
    assert pushed_diff_ids(pushed, shipped.stack.podman.base) == diff_ids
    shipped.podman("commit", "-q", "two", "localhost/late")
