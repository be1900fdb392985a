"""Which layers are worth serving before they are here."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.lazy.link import DEFAULT_TUNING, Link
from als.lazy.rule import Blob, Way, judge

MIB = 1 << 20
FAR = Way(0.020, 25e6)
"""20 ms and 200 Mbit/s."""


@pytest.mark.parametrize(
    ("size", "way", "layers", "pays"),
    [
        (70 * MIB, FAR, 1, True),
        (4 * MIB, FAR, 1, False),
        (4 * MIB, FAR, 20, True),
        (20_000, FAR, 20, False),
        (70 * MIB, Way(0.0003, 1e9), 1, True),
        (1 * MIB, Way(0.0003, 1e9), 1, False),
        (1 * MIB, Way(0.05, 1e5), 1, True),
        (1 * MIB, Way(0.6, 1e6), 1, False),
        (70 * MIB, Way(), 1, True),
        (1, Way(0.0, 0.0), 1, False),
    ],
)
def test_what_pays(size: int, way: Way, layers: int, pays: bool) -> None:
    verdict = judge(Blob(size), way, layers)
    assert verdict.pays == pays, str(verdict)
    assert str(verdict).startswith("lazy:" if pays else "whole:")


def test_starts_that_read_everything_and_layers_of_tiny_files_do_not_pay() -> None:
    assert not judge(Blob(70 * MIB, share=1.0), FAR).pays
    assert judge(Blob(70 * MIB, files=7_339, index_size=371_000), FAR).pays
    assert not judge(Blob(70 * MIB, files=500_000), FAR).pays
    assert not judge(Blob(20 * MIB, index_size=19 * MIB), FAR).pays


SIZES = st.integers(1, 1 << 40)
WAYS = st.builds(Way, st.floats(0.0, 2.0), st.floats(1.0, 1e10))


@given(SIZES, SIZES, WAYS, st.integers(1, 128))
def test_a_larger_layer_pays_where_a_smaller_one_does(one: int, other: int, way: Way, layers: int) -> None:
    small, large = sorted((one, other))
    if judge(Blob(small, 1000, 10), way, layers).pays:
        assert judge(Blob(large, 1000, 10), way, layers).pays


@given(SIZES, WAYS, st.integers(1, 128), st.floats(-1, 2), st.integers(0, 1 << 50), st.integers(0, 1 << 40))
def test_any_numbers_are_judged(size: int, way: Way, layers: int, share: float, index: int, files: int) -> None:
    verdict = judge(Blob(size, index, files, share), way, layers)
    assert verdict.lazy > 0
    assert verdict.whole > 0


def test_what_a_link_has_measured_counts() -> None:
    link = Link(DEFAULT_TUNING, random.Random(1))
    assert Way.of(None) == Way.of(link) == Way(DEFAULT_TUNING.first_byte, DEFAULT_TUNING.rate)
    for moment in range(100):
        link.began(0.001)
        link.received(10 * MIB, moment / 10)
    assert Way.of(link).round_trip < 0.002
    assert Way.of(link).rate > 50e6
