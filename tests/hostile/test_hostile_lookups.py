"""Names that a client of the layer store may come with: all but an image in a registry are not here, at once."""

from __future__ import annotations

import base64
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.errors import AlsError, BadReference
from als.fuse.layers import StoreBackend
from als.model.reference import parse_reference
from als.service import Service
from tests.harness.als import AlsDaemon
from tests.harness.ocilayout import Layout, TarBuilder
from tests.hostile.conftest import held

DIGEST = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def daemon(as_root: None, module_dir: Path) -> Iterator[AlsDaemon]:
    (module_dir / "empty.conf").write_text("")
    (module_dir / "auth.json").write_text("{}")
    environment = {
        "CONTAINERS_REGISTRIES_CONF": str(module_dir / "empty.conf"),
        "REGISTRY_AUTH_FILE": str(module_dir / "auth.json"),
    }
    with AlsDaemon(module_dir / "d", environment) as running:
        yield running


def encoded(text: str | bytes) -> bytes:
    return base64.b64encode(text if isinstance(text, bytes) else text.encode())


REFERENCES = [
    b"not base64!",
    b"====",
    b"YQ",
    b"YQ==\n",
    encoded(b"\xff\xfe"),
    encoded("\0"),
    encoded("../../etc/passwd"),
    encoded("/etc/passwd"),
    encoded("HOST/UPPER"),
    encoded("http://127.0.0.1:1/x"),
    encoded("dir:/etc"),
    encoded("containers-storage:x/y"),
    encoded("docker://"),
    b"A" * 255,
    b"-_" * 20,
    encoded("host/name:tag@sha256:zz"),
    encoded("\x1b[2J"),
    encoded("oci:/etc:x"),
    encoded("oci-archive:/etc/passwd"),
]
DIGESTS = [
    DIGEST,
    "sha256:" + "0" * 63,
    "sha256:../../..",
    "md5:" + "0" * 32,
    "sha256:" + "G" * 64,
    "x" * 255,
    "sha256:",
    ":",
]


def fails_with(*names: bytes | str | Path) -> int | None:
    """The errno with which nothing is found at a path."""
    path = Path(*(name if isinstance(name, Path) else os.fsdecode(name) for name in names))
    try:
        path.stat()
    except OSError as error:
        return error.errno
    return None


@pytest.mark.parametrize("reference", REFERENCES)
def test_not_here(daemon: AlsDaemon, reference: bytes) -> None:
    start = time.monotonic()
    for digest in DIGESTS:
        for name in ("diff", "info", "blob"):
            assert fails_with(daemon.store, reference, digest, name) == errno.ENOENT
    assert time.monotonic() - start < 5
    assert daemon.serving()


def test_names_that_are_too_long(daemon: AlsDaemon) -> None:
    for path in (b"A" * 256, b"A" * 255 + b"/" + b"x" * 256, b"QQ==/" * 500):
        assert fails_with(daemon.store, path, DIGEST, "diff") in (errno.ENAMETOOLONG, errno.ENOENT)
    assert daemon.serving()


def test_files_of_this_machine_are_not_read(daemon: AlsDaemon, module_dir: Path) -> None:
    """Neither an image that is there, nor a pipe in which whoever opens it would wait."""
    layout = Layout(module_dir / "images")
    blob = layout.add_layer(TarBuilder().file("f", b"x" * 100).build())
    layout.add_image("t", [blob])
    os.mkfifo(module_dir / "pipe")
    start = time.monotonic()
    for reference in (layout.name("t"), f"oci-archive:{module_dir}/pipe", f"oci:{module_dir}/pipe"):
        path = daemon.store / encoded(reference).decode() / blob.digest
        assert fails_with(path, "info") == errno.ENOENT
        assert fails_with(path, "blob") == errno.ENOENT
    assert time.monotonic() - start < 5
    assert daemon.json("images") == []
    assert "in registries only" in daemon.log_text()


def test_the_backend_refuses_them_too(service: Service, layout: Layout) -> None:
    blob = layout.add_layer(TarBuilder().file("f", b"x" * 100).build())
    layout.add_image("t", [blob])
    backend = StoreBackend(service)
    for ask in (backend.lookup, backend.open_blob):
        with pytest.raises(BadReference, match="in registries only"):
            ask(layout.name("t"), blob.digest)
    assert held(service) == []
    service.pull(parse_reference(layout.name("t")))
    with pytest.raises(AlsError):
        backend.open_blob(layout.name("t"), blob.digest)
