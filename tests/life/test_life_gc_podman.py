"""A podman that pulls by itself just when gc takes the same layers out of the list: what it makes lies in its own storage."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from als.model.reference import parse_reference
from als.service import Service
from als.service.recovery import recover
from als.service.removal import collect, remove
from als.service.repair import fsck
from tests.conftest import CACHE
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder
from tests.harness.podman import Podman, Storage
from tests.harness.registry import RegistryServer
from tests.life.history import policy


@pytest.mark.parametrize(("suite", "layout_name"), [("bookworm", "diffN"), ("trixie", "composefs")])
def test_podman_pulls_what_gc_has_just_unlisted(
    service: Service, tmp_path: Path, module_dir: Path, monkeypatch: pytest.MonkeyPatch, suite: str, layout_name: str
) -> None:
    policy(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    try:
        binaries = binaries_of(suite, CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))
    (store,) = (store for store in service.image_stores if store.layout == layout_name)
    images = ImageFactory(module_dir / f"{suite}-images")
    images.runnable("one", [TarBuilder().file("a", b"a" * 5000).build(), TarBuilder().file("b", b"b" * 5000).build()])
    reference = images.layout.name("one")
    recover(service)  # which shares mounts with podman's mount namespace
    service.pull(parse_reference(reference))
    remove(service, reference)
    with RegistryServer(module_dir / f"{suite}-registry") as registry:
        pushed = registry.push(reference, "one:1")
        storage = Storage(image_stores=(store.root,), insecure=(registry.address,))
        with Podman(module_dir / f"{suite}-podman", storage, binaries) as podman:
            original = store.unlist

            def unlist(chain_ids: Collection[str]) -> list[dict[str, object]]:
                entries = original(chain_ids)
                if entries:
                    podman.pull(pushed)
                return entries

            monkeypatch.setattr(store, "unlist", unlist)
            assert collect(service).chains
            assert podman.run(pushed, "md5sum", "/a", "/b").count("  /") == 2
            assert fsck(service, deep=True).found == ()
            # It has its own, and als can have it as well.
            service.pull(parse_reference(reference))
            assert podman.run(pushed, "md5sum", "/a", "/b").count("  /") == 2
            podman("rmi", pushed)
            podman.pull(pushed)
            assert podman.run(pushed, "md5sum", "/a", "/b").count("  /") == 2
            assert fsck(service, deep=True).found == ()
