"""One image, its registries, and ``als pull`` as a user would call it."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.harness.als import AlsDaemon
from tests.harness.ocilayout import Image, Layout, TarBuilder
from tests.harness.registry import RegistryServer, registry_server
from tests.harness.system import Completed

__all__ = ["registry_server"]

# "let-me-in" under bcrypt, the only scheme that docker-registry takes.
_HASH = "$2y$04$abcdefghijklmnopqrstuudxA/1BY5FxPYA69jUrJOJFmTyoe9T1a"
HTPASSWD = f"user:{_HASH}\nother:{_HASH}\n"
PASSWORD = "let-me-in"
LAYERS = 8
LAYER_BYTES = 300_000


def encoded(user: str) -> str:
    """As an auth file has it."""
    return base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()


@dataclass
class Client:
    """``als`` with a store, a home and configuration files of its own."""

    base: Path
    als: AlsDaemon = field(init=False)

    def __post_init__(self) -> None:
        self.als = AlsDaemon(self.base)
        self.home = self.base / "home"
        self.home.mkdir()
        self.als.environment = {
            "HOME": str(self.home),
            "CONTAINERS_REGISTRIES_CONF": str(self.base / "registries.conf"),
            "REGISTRY_AUTH_FILE": str(self.base / "auth.json"),
        }
        self.registries("")
        self.auths({})

    def registries(self, text: str, *insecure: str) -> None:
        """Write registries.conf."""
        tables = "".join(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n' for host in insecure)
        (self.base / "registries.conf").write_text(text + tables)

    def auths(self, users: dict[str, str], **more: object) -> None:
        """Write auth.json: the user of each host or repository."""
        auths = {key: {"auth": encoded(user)} for key, user in users.items()}
        (self.base / "auth.json").write_text(json.dumps({"auths": auths, **more}))

    def pull(self, reference: str, status: int = 0) -> Completed:
        done = self.als.cli("pull", "-q", reference, status=status, deadline=90)
        assert PASSWORD.encode() not in done.stdout + done.stderr
        return done

    def pulled(self, reference: str, image: Image) -> None:
        """Pull, and compare what is there with what was pushed."""
        assert self.pull(reference).stdout.decode().split() == [image.digest]
        (listed,) = self.als.json("images")
        assert (listed["digest"], listed["layers"], listed["state"]) == (image.digest, LAYERS, "sealed")
        published = json.loads((self.als.image_store / "overlay-layers/layers.json").read_bytes())
        assert [layer["diff-digest"] for layer in published] == [layer.diff_id for layer in image.layers]


@pytest.fixture
def client(as_root: None, tmp_path: Path) -> Iterator[Client]:
    made = Client(tmp_path / "c")
    yield made
    made.als.close()


@pytest.fixture(scope="module")
def layout(module_dir: Path) -> Layout:
    return Layout(module_dir / "layout")


@pytest.fixture(scope="module")
def image(layout: Layout) -> Image:
    """Layers of bytes that cannot be compressed."""
    noise = random.Random(1)
    return layout.add_image(
        "t", [layout.add_layer(TarBuilder().file(f"f{n}", noise.randbytes(LAYER_BYTES)).build()) for n in range(LAYERS)]
    )


@pytest.fixture(scope="module")
def plain(registry_server: RegistryServer, layout: Layout, image: Image) -> RegistryServer:
    """The image in a registry that asks for nothing, as team/app:1 and team/other:1."""
    for name in ("app", "other"):
        registry_server.push(layout.name("t"), f"team/{name}:1")
    return registry_server


MakeRegistry = Callable[..., RegistryServer]


@pytest.fixture
def registry_like(plain: RegistryServer, tmp_path: Path) -> Iterator[MakeRegistry]:
    """Makes registries with the same content, and other options."""
    running: list[RegistryServer] = []

    def make(options: dict[str, object], host: str = "127.0.0.1") -> RegistryServer:
        same = {"storage": {"filesystem": {"rootdirectory": str(plain.folder / "storage")}}}
        running.append(RegistryServer(tmp_path / f"r{len(running)}", {**same, **options}, host).start())
        return running[-1]

    yield make
    for server in running:
        server.stop()


@pytest.fixture
def basic_options(tmp_path: Path) -> dict[str, object]:
    """Of a registry that wants a password."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    return {"auth": {"htpasswd": {"realm": "here", "path": str(tmp_path / "htpasswd")}}}
