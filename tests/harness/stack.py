"""Registry, daemon and podman wired together: what the podman tests, the demo and the benchmarks run on."""

from __future__ import annotations

from pathlib import Path

from tests.harness.als import AlsDaemon
from tests.harness.podman import Binaries, Podman, Storage
from tests.harness.registry import RegistryServer


class Stack:
    """A daemon and a podman that uses it both as layer store and as image store, below `base`, which should be short."""

    def __init__(self, base: Path, registry: RegistryServer, binaries: Binaries | None = None) -> None:
        self.registry = registry
        self.als = AlsDaemon(base)
        storage = Storage((self.als.layer_store,), (self.als.image_store,), insecure=(registry.address,))
        self.podman = Podman(base / "p", storage, binaries)
        self.als.environment.update(self.podman.environment)

    def __enter__(self) -> Stack:
        try:
            self.als.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pull(self, reference: str, deadline: float = 600) -> None:
        """``podman pull`` through the store.

        podman 5 asks a layer store only for layers with a table of contents; for plain ones ``als pull`` comes first there,
        and podman then finds them in the image store.
        """
        if self.podman.version >= (5,):
            self.als.cli("pull", "-q", reference, deadline=deadline)
        self.podman.pull(reference, deadline=deadline)

    def close(self) -> None:
        """End both; nothing stays mounted."""
        try:
            self.podman.close()
        finally:
            self.als.close()
