"""A short form of `make soak`."""

from __future__ import annotations

from tests.harness.images import ImageFactory
from tests.harness.soak import Soak, make_samples
from tests.harness.stack import Stack

SEED = 20
SECONDS = 20.0


def test_gc_beside_pulls_and_runs(stack: Stack, images: ImageFactory) -> None:
    tally = Soak(stack, make_samples(stack, images, SEED), SEED).run(SECONDS)
    assert tally.errors == []
    assert tally.done["gc"] >= 3 and tally.done["podman"] >= 2 and tally.done["als"] >= 3
    assert tally.done["layers removed"] > 0
