"""What the benchmark of lazy pulling makes of its measurements. (That it measures is seen by running it.)"""

from __future__ import annotations

import pytest

from bench.lazy import ratios, spread, table, wanted
from bench.lazyfloor import ROUND_TRIPS, Floor
from bench.lazyways import Cold, Way
from tests.harness.podman import Binaries


def colds(*seconds: float, received: int = 5_000_000) -> list[Cold]:
    return [Cold(each, received, "hello\n") for each in seconds]


def test_ratios_are_taken_within_rounds() -> None:
    """A machine that is twice as slow in one round changes no ratio."""
    podman = f"podman {'.'.join(map(str, Binaries().version))}"
    found = {
        f"{podman} overlay": colds(4, 8, 4),
        f"{podman} als eStargz": colds(1, 2, 1),
        "podman 9 stargz-store eStargz": colds(2, 4, 2),
        "podman 9 overlay": colds(1, 1, 1),
    }
    rows = {row["peer"]: row for row in ratios(found, [Binaries()])}
    assert set(rows) == {f"{podman} overlay", "podman 9 stargz-store eStargz"}
    assert [rows[f"{podman} overlay"][key] for key in ("ratio_low", "ratio", "ratio_high")] == [0.25] * 3
    assert rows["podman 9 stargz-store eStargz"]["ratio"] == 0.5
    shown = table(found, list(rows.values()), Floor(0.2, 16, 9_000_000, 5_000_000), 0.5)
    assert "4.00 (4.00-6.00)" in shown
    assert "als eStargz / podman 9 stargz-store eStargz: 0.50 (0.50-0.50)" in shown


def test_the_floor_adds_up() -> None:
    floor = Floor(start=0.2, files=16, read=0, needed=5_000_000)
    assert floor.seconds(200, 0.02) == pytest.approx(0.2 + len(ROUND_TRIPS) * 0.02 + 0.2)
    assert floor.seconds(100, 0) == pytest.approx(0.6)


def test_spread() -> None:
    assert spread([7.0]) == (7.0, 7.0, 7.0)
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_only_what_is_asked_for() -> None:
    some = [Way(name, "r", lambda _: iter(())) for name in ("podman overlay", "podman als plain", "podman stargz-store")]
    assert wanted(some, None) == some
    assert [way.name for way in wanted(some, ["als", "stargz"])] == ["podman als plain", "podman stargz-store"]
    assert wanted(some, ["none"]) == []
