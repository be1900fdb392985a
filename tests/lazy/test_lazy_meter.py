"""How fast bytes come, by a clock of our own."""

from __future__ import annotations

import pytest

from als.lazy.meter import WINDOW, Meter


def test_a_steady_stream() -> None:
    meter = Meter()
    assert (meter.total, meter.rate(0.0)) == (0, 0.0)
    for step in range(1000):
        meter.add(1000, step / 100)
    assert meter.total == 1_000_000
    assert meter.rate(10.0) == pytest.approx(100_000, rel=0.05)


def test_what_came_long_ago_is_no_rate() -> None:
    meter = Meter()
    meter.add(5000, 0.0)
    assert meter.rate(WINDOW / 2) == pytest.approx(5000 / (WINDOW / 2))
    assert meter.rate(WINDOW + 0.1) == 0.0
    assert meter.total == 5000


def test_a_beginning_is_not_taken_for_more_than_it_is() -> None:
    meter = Meter()
    meter.add(1000, 7.0)
    assert meter.rate(7.0) == 2000


def test_little_is_kept_of_many_pieces() -> None:
    meter = Meter()
    for step in range(20_000):
        meter.add(1, step / 1000)
    assert meter.total == 20_000
    assert len(meter._recent) <= WINDOW / 0.1 + 2
