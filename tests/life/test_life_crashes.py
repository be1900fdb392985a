"""gc killed between any two steps: what is listed can be used, and the next run leaves nothing dead."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from als.service import Service
from als.service.recovery import recover
from als.service.removal import collect
from als.service.repair import fsck
from tests.harness.ocilayout import Layout
from tests.harness.system import run
from tests.imagestore.shop import in_sight
from tests.life.stores import contents, image, pull

DIES = 77
"""The exit status of a gc that was killed."""


def gc_killed_after(root: Path, steps: int) -> bool:
    """Run gc in a process of its own that dies before its `steps`-th change of a file's name; whether it did die."""
    done = run(sys.executable, "-m", "tests.life.killed_gc", root, root.parent / "run", str(steps), status=None)
    assert done.returncode in (0, DIES), done.stderr.decode()
    return done.returncode == DIES


def steps_of_gc(service: Service, layout: Layout) -> int:
    """How many steps gc takes for the garbage of :func:`litter`."""
    litter(service, layout)
    done = run(sys.executable, "-m", "tests.life.killed_gc", service.layout.root, service.config.run, "1000000")
    return int(done.stdout)


def litter(service: Service, layout: Layout) -> str:
    """An image that lives, one that shares a layer with it and is dead, a tall dead one; the first one's reference."""
    kept = image(layout, "kept", "shared", "kept")
    pull(service, kept)
    for reference in (image(layout, "dead", "shared", "dead"), image(layout, "tall", *(f"n{n}" for n in range(9)))):
        service.images.forget(str_of(service, reference))
    (service.layout.tmp / "aborted").mkdir(exist_ok=True)
    return kept


def str_of(service: Service, reference: str) -> str:
    pull(service, reference)
    ref = service.ref_of(reference)
    assert ref is not None
    return ref.reference


def test_killed_at_any_step(service: Service, layout: Layout) -> None:
    total = steps_of_gc(service, layout)
    assert total > 50
    alive = contents(service.layout.root)
    # Every step of the beginning, where the list is rewritten, and a sample of the rest.
    for steps in sorted({*range(20), *range(20, total - 10, total // 8)}):
        kept = litter(service, layout)
        assert gc_killed_after(service.layout.root, steps), steps
        for store in service.image_stores:
            assert in_sight(store) == store.published().keys(), steps
        assert fsck(service).found == (), steps
        with Service(service.config) as restarted:
            recover(restarted)
            assert fsck(restarted, deep=True).found == (), steps
            assert restarted.ref_of(kept) is not None
            collect(restarted)
        assert contents(service.layout.root) == alive, steps


def test_killed_again_and_again(service: Service, layout: Layout) -> None:
    litter(service, layout)
    for _ in range(400):
        if not gc_killed_after(service.layout.root, 60):
            break
    else:
        pytest.fail("gc makes no progress")
    assert fsck(service, deep=True).found == ()
    assert {path for path in contents(service.layout.root) if path.startswith("tmp/")} == set()


def test_a_pull_after_a_killed_gc(service: Service, layout: Layout) -> None:
    for steps in (1, 20, 40):
        litter(service, layout)
        assert gc_killed_after(service.layout.root, steps)
        for tag in ("dead", "tall"):
            pulled = pull(service, layout.name(tag))
            for index in range(len(pulled.chain)):
                assert os.listdir(service.diff_n.diff(pulled.chain[index]))
        assert fsck(service, deep=True).found == ()
