"""Each parser for some thousand cases. ALS_FUZZ_CASES and ALS_FUZZ_SEED ask for more, or for others.

The seed is the same each time: a change is judged by what it does, not by luck. `make fuzz` and `make soak` look further.
"""

from __future__ import annotations

import os

import pytest

from tests.fuzz.driver import CORPUS, Broken, Fuzzer, Target
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import TARGETS

CASES = int(os.environ.get("ALS_FUZZ_CASES", "10000"))
SEED = int(os.environ.get("ALS_FUZZ_SEED", "775521412"))


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_it(name: str) -> None:
    print(f"seed {SEED}")
    outcome = Fuzzer(TARGETS[name], SEED).run(CASES)
    assert outcome.cases == CASES
    assert 0 < outcome.refused < CASES, "the mutations reach neither all of the parser nor none of it"


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_small_and_has_something_valid(name: str) -> None:
    corpus = TARGETS[name].corpus()
    assert corpus
    assert max(map(len, corpus)) <= 1 << 14
    valid = 0
    for data in corpus:
        try:
            TARGETS[name].run(data)
            valid += 1
        except TARGETS[name].refusals:
            continue
    assert valid


def test_every_corpus_has_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


def test_a_seed_repeats_itself() -> None:
    mutator = Mutator([b"some text", b"other"], [b"word"])
    cases = list(mutator.cases(1, 500))
    assert list(mutator.cases(1, 500)) == cases
    assert list(mutator.cases(2, 500))[2:] != cases[2:]
    assert cases[:2] == [b"some text", b"other"]
    assert len(set(cases)) > 350


def hang(data: bytes) -> None:
    while data.startswith(b"\0"):
        pass


def hoard(data: bytes) -> None:
    bytearray(1 << 30) if data.startswith(b"\0") else None


def slip(data: bytes) -> None:
    if data.startswith(b"\0"):
        raise KeyError("x")


@pytest.mark.parametrize(("run", "word"), [(hang, "signal 27"), (hoard, "MemoryError"), (slip, "KeyError")])
def test_the_driver_sees_what_breaks(run: object, word: str) -> None:
    assert callable(run)
    target = Target("reference", run, (ValueError,), repair=lambda data: b"\0")
    with pytest.raises(Broken, match=word) as caught:
        Fuzzer(target, 7).run(100)
    assert "case 1 of seed 7" in str(caught.value)
