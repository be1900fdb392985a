"""A short form of `make soak`."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

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


def test_the_same_while_the_daemon_is_killed(stack: Stack, module_dir: Path, images: ImageFactory) -> None:
    base = Path(tempfile.mkdtemp(prefix="k", dir=module_dir))
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    with Stack(base, stack.registry, keep=True) as kept:
        tally = Soak(kept, make_samples(kept, images, seed), seed, kills=True).run(SECONDS)
        print(dict(tally.done), kept.als.log_text()[-6000:])
    assert tally.errors == []
    assert tally.done["kills"] and tally.done["gc"] and tally.done["podman"] and tally.done["als"]
