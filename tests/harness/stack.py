"""Registry, daemon and podman wired together: what the podman tests, the demo and the benchmarks run on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.harness.als import AlsDaemon
from tests.harness.podman import Binaries, Podman, Storage
from tests.harness.registry import RegistryServer
from tests.harness.system import free_port


class Stack:
    """A daemon and a podman that uses all its faces, below `base`, which should be short."""

    def __init__(
        self,
        base: Path,
        registry: RegistryServer,
        binaries: Binaries | None = None,
        insecure: Sequence[str] = (),
        mirror: bool = True,
        settings: Mapping[str, object] | None = None,
        *,
        keep: bool = False,
        root: Path | None = None,
    ) -> None:
        """
        :param insecure: further registries that are reached by plain HTTP.
        :param mirror: whether a podman that has use for it knows the registry mirror. podman 4 has not.
        :param settings: of the daemon, as :class:`AlsDaemon` takes them. With ``verity = "require"`` podman reads nothing
            that is not sealed.
        :param keep: the daemon is restarted when it dies.
        :param root: of the store, if it is to be somewhere else.
        """
        self.registry = registry
        binaries = binaries or Binaries()
        modern = binaries.version >= (5,)
        port = free_port() if modern and mirror else 0
        self.mirror_port = port
        """0: no client knows of a mirror."""
        self.als = AlsDaemon(base, mirror_port=port, settings=settings, keep=keep, root=root)
        image_store = self.als.composefs_store if modern else self.als.image_store
        hosts = (registry.address, *insecure)
        sealed = (settings or {}).get("verity") == "require"
        storage = Storage((self.als.layer_store,), (image_store,), insecure=hosts, mirror_port=port, sealed=sealed)
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

        podman 4 asks the layer store for each layer. Later ones do so only for layers with a table of contents; for others it
        is the registry mirror that has them published.
        """
        self.podman.pull(reference, deadline=deadline)

    def close(self) -> None:
        """End both; nothing stays mounted."""
        try:
            self.podman.close()
        finally:
            self.als.close()
