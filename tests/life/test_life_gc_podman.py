"""A podman that pulls by itself just when gc takes the same layers out of the list: what it makes lies in its own storage."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from als.model.reference import parse_reference
from als.service import Service
from als.service.removal import collect, remove
from als.service.repair import fsck
from tests.life.conftest import Alone


def test_podman_pulls_what_gc_has_just_unlisted(service: Service, alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    podman, reference = alone.podman, alone.reference
    service.pull(parse_reference(reference))
    remove(service, reference)
    original = alone.store.unlist

    def unlist(chain_ids: Collection[str]) -> list[dict[str, object]]:
        entries = original(chain_ids)
        if entries:
            podman.pull(alone.pushed)
        return entries

    monkeypatch.setattr(alone.store, "unlist", unlist)
    assert collect(service).chains
    assert alone.reads_all()
    assert fsck(service, deep=True).found == ()
    # It has its own, and als can have it as well.
    service.pull(parse_reference(reference))
    assert alone.reads_all()
    podman("rmi", alone.pushed)
    podman.pull(alone.pushed)
    assert alone.reads_all()
    assert fsck(service, deep=True).found == ()
