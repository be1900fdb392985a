"""What is asked for, when and in which requests; against a link that exists in numbers only."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from als.lazy.link import Tuning
from als.lazy.schedule import Want
from tests.lazy.modellink import HOST, KEY, Blob, modelled
from tests.lazy.scheduleplay import Play, finish, scheduler_of

KIB, MIB = 1 << 10, 1 << 20


# -- properties

WANTED = ("demand", "gate", "ahead", "prefetch", "fill", "unwant")
ACTIONS = (*WANTED, "next", "finish", "part", "fail", "fail host", "whole", "spoil")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(ACTIONS),
        st.integers(0, 39),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(lengths=st.lists(st.integers(1, 3 * MIB), min_size=1, max_size=40), gap=st.integers(0, 200_000), steps=STEPS)
def test_nothing_is_fetched_twice_and_everything_comes(lengths: list[int], gap: int, steps: list[tuple[str, int]]) -> None:
    play = Play(lengths, gap)
    for what, which in steps:
        play.step(what, which)
    play.drain()
    assert not play.demanded, "somebody waits for ever"
    play.scheduler.fill(KEY)
    play.drain()
    assert play.here == set(range(len(lengths)))
    assert play.scheduler.wake(play.now) is None
    assert play.scheduler.link(HOST).urgent == play.scheduler.link(HOST).others == 0


@settings(max_examples=100, deadline=None)
@given(busy=st.integers(0, 30), unit=st.integers(0, 99), paused=st.booleans(), limited=st.booleans())
def test_demand_starts_at_once(busy: int, unit: int, paused: bool, limited: bool) -> None:
    scheduler = scheduler_of(Blob([MIB] * 100))
    scheduler.fill(KEY)
    scheduler.want(KEY, range(10, 10 + busy), Want.PREFETCH, 0.0)
    scheduler.next(0.0)
    scheduler.pause(paused)
    scheduler.limit(1000.0 if limited else None)
    scheduler.want(KEY, [unit], Want.DEMAND, 0.1)
    if not scheduler.absent(KEY, unit):
        return
    started = scheduler.next(0.1)
    assert started
    assert started[0].want is Want.DEMAND
    assert started[0].units[0] == unit


# -- gates


def test_gates_wait_for_nothing_large_and_take_nothing_along() -> None:
    tuning = Tuning(first_byte=0.02, rate=25e6)
    scheduler = scheduler_of(Blob([40_000] * 1200), tuning)
    scheduler.want(KEY, range(160, 1200), Want.PREFETCH, 0.0)
    large = scheduler.next(0.0)
    assert len(large) == tuning.ahead_least
    # Unit 12 is near enough to come with 10; from 14 to 20 it is farther than what is worth it.
    scheduler.want(KEY, [10, 12, 20], Want.GATE, 0.0)
    started = scheduler.next(0.0)
    assert [(fetch.want, fetch.units) for fetch in started] == [(Want.GATE, (10, 11, 12)), (Want.GATE, (20,))]
    scheduler.want(KEY, range(30, 150, 10), Want.GATE, 0.0)
    assert len(scheduler.next(0.0)) == tuning.gate_max - 2, "there is a bound on their number"
    scheduler.want(KEY, [155], Want.DEMAND, 0.0)
    assert scheduler.next(0.0)[0].units[0] == 155, "which is not one on readers"


def test_a_gate_at_the_far_end_of_a_request_gets_its_own() -> None:
    tuning = Tuning(first_byte=0.02, rate=25e6)
    scheduler = scheduler_of(Blob([100_000] * 40), tuning)
    scheduler.want(KEY, range(40), Want.PREFETCH, 0.0)
    (large,) = scheduler.next(0.0)
    scheduler.want(KEY, [3], Want.GATE, 0.0)
    assert scheduler.next(0.0) == [], "it comes soon"
    scheduler.want(KEY, [30], Want.GATE, 0.0)
    gate, rest = scheduler.next(0.0)
    assert (gate.want, gate.units) == (Want.GATE, (30,))
    assert (rest.want, rest.units[0], rest.units[-1]) == (Want.PREFETCH, 31, 39)
    assert scheduler.coming(large.number) == tuple(range(30))


# -- coalescing


def test_neighbours_come_in_one_request() -> None:
    scheduler = scheduler_of(Blob([10_000] * 100, gap=300))
    scheduler.want(KEY, [5, 6, 7, 9, 50], Want.PREFETCH, 0.0)
    first, second = scheduler.next(0.0)
    # Unit 8 lies between and comes with them, as that is cheaper than a round trip.
    assert first.units == (5, 6, 7, 8, 9)
    assert (first.offset, first.length) == (5 * 10_300 + 300, 5 * 10_300 - 300)
    assert second.units == (50,)


def test_what_is_here_is_bridged_only_where_that_is_cheaper() -> None:
    tuning = Tuning(first_byte=0.01, rate=10e6)
    scheduler = scheduler_of(Blob([60_000] * 20), tuning)
    for unit in (2, 3, 6, 7):
        scheduler.arrived(KEY, unit)
    scheduler.arrived(KEY, 8)
    scheduler.want(KEY, [1, 2, 4, 9], Want.PREFETCH, 0.0)
    # A round trip is worth 100,000 bytes: units 2 and 3 have more.
    assert [fetch.units for fetch in scheduler.next(0.0)] == [(1,), (4,), (9,)]
    for want, first_byte, units in (
        (Want.DEMAND, 0.02, (1, 4)),
        # Of what is fetched ahead three requests run side by side, and share the round trip.
        (Want.PREFETCH, 0.02, (1,)),
        (Want.PREFETCH, 0.04, (1, 4)),
    ):
        tuning = Tuning(first_byte=first_byte, rate=10e6)
        scheduler = scheduler_of(Blob([60_000] * 5), tuning)
        for unit in (0, 2, 3):
            scheduler.arrived(KEY, unit)
        scheduler.want(KEY, [1, 4], want, 0.0)
        assert scheduler.next(0.0)[0].units == units


def test_the_way_is_as_long_as_the_shortest_answer_takes() -> None:
    scheduler = scheduler_of(Blob([60_000] * 20), Tuning(first_byte=0.05))
    link = scheduler.link(HOST)
    link.began(0.02)
    assert link.first_byte == 0.02
    # Behind other answers' bytes.
    for _ in range(3):
        link.began(0.2)
    assert link.first_byte < 0.05
    for _ in range(100):
        link.began(0.2)
    assert link.first_byte > 0.19


def test_demand_is_extended_by_what_a_round_trip_is_worth() -> None:
    tuning = Tuning(first_byte=0.02, rate=25e6)
    scheduler = scheduler_of(Blob([100_000] * 50), tuning)
    scheduler.want(KEY, [3], Want.DEMAND, 0.0)
    (fetch,) = scheduler.next(0.0)
    assert fetch.units == tuple(range(3, 9))
    scheduler.want(KEY, [20], Want.PREFETCH, 0.0)
    (fetch,) = scheduler.next(0.0)
    assert fetch.units == (20,)


def test_a_small_layer_comes_with_its_first_read() -> None:
    scheduler = scheduler_of(Blob([500] * 100, gap=512))
    scheduler.want(KEY, [0], Want.DEMAND, 0.0)
    (fetch,) = scheduler.next(0.0)
    assert len(fetch.units) == 100


def test_a_request_has_a_largest_size_that_one_unit_may_exceed() -> None:
    scheduler = scheduler_of(Blob([9 * MIB, 3 * MIB, 1 * MIB, 1 * MIB]))
    scheduler.want(KEY, range(4), Want.AHEAD, 0.0)
    assert [fetch.units for fetch in scheduler.next(0.0)] == [(0,), (1, 2), (3,)]


# -- classes


def test_the_background_keeps_away_from_demand() -> None:
    link = modelled([64 * KIB] * 2000)
    link.scheduler.fill(KEY)
    link.run(2.0)
    assert len(link.arrivals) > 500
    alone = modelled([64 * KIB] * 2000)
    alone.scheduler.want(KEY, [1900], Want.DEMAND, alone.now)
    floor = alone.until(1900)
    link.scheduler.want(KEY, [1900], Want.DEMAND, link.now)
    assert link.until(1900) < 1.5 * floor
    link.run(6.0)
    assert len(link.arrivals) == 2000


def test_what_is_far_off_in_the_background_is_cut_out() -> None:
    link = modelled([64 * KIB] * 64, capacity=1e6)
    link.scheduler.fill(KEY)
    link.run(0.1)
    assert link.fetches[0].units == tuple(range(64))
    assert 60 not in link.arrivals
    link.scheduler.want(KEY, [60], Want.DEMAND, link.now)
    # To wait for it would take four seconds.
    assert link.until(60) < 0.3
    link.run(5.0)
    assert len(link.arrivals) == 64


def test_what_is_near_in_the_background_becomes_demand() -> None:
    link = modelled([64 * KIB] * 64)
    link.scheduler.fill(KEY)
    link.scheduler.limit(10_000)
    link.run(0.1)
    here = len(link.fetches), len(link.arrivals)
    link.run(1.0)
    assert here == (len(link.fetches), len(link.arrivals))
    unit = link.scheduler.coming(link.fetches[0].number)[0]
    link.scheduler.want(KEY, [unit], Want.DEMAND, link.now)
    assert link.until(unit) < 0.1
    assert len(link.fetches) == here[0]


def test_a_pause_holds_the_background_alone() -> None:
    link = modelled([64 * KIB] * 500)
    link.scheduler.fill(KEY)
    link.run(0.2)
    link.scheduler.pause()
    link.run(0.01)
    here = len(link.arrivals)
    link.run(3.0)
    assert len(link.arrivals) == here
    link.scheduler.want(KEY, [400], Want.PREFETCH, link.now)
    link.until(400)
    link.scheduler.pause(False)
    link.run(3.0)
    assert len(link.arrivals) == 500


@pytest.mark.parametrize("rate", [200_000.0, 2e6])
def test_the_background_keeps_to_its_rate(rate: float) -> None:
    link = modelled([20 * KIB] * 2000)
    link.scheduler.fill(KEY)
    link.scheduler.limit(rate)
    link.run(10.0)
    assert 0.85 * 10 * rate < link.moved < 1.1 * 10 * rate + 64 * KIB


def test_reading_ahead_fills_the_link() -> None:
    """A reader who asks for what comes next in time: 90 % of the link."""
    link = modelled([MIB] * 100, capacity=25e6, rtt=0.02)
    for unit in range(100):
        link.scheduler.want(KEY, [unit], Want.DEMAND, link.now)
        link.scheduler.want(KEY, range(unit + 1, min(unit + 13, 100)), Want.AHEAD, link.now)
        link.until(unit)
    seconds = link.now - 100
    assert seconds < 100 * MIB / 25e6 / 0.9


# -- depth


def test_depth_grows_where_that_makes_it_faster() -> None:
    """A server gives each connection 4 MB/s of a link of 25: six fill it."""
    link = modelled([64 * KIB] * 8000, capacity=25e6, each=4e6)
    link.scheduler.fill(KEY)
    link.run(12.0)
    assert 6 <= link.scheduler.link(HOST).depth <= 8
    assert link.moved / 12 > 0.7 * 25e6


def test_depth_stays_where_one_request_fills_the_link() -> None:
    link = modelled([64 * KIB] * 8000, capacity=25e6)
    link.scheduler.fill(KEY)
    link.run(12.0)
    assert link.scheduler.link(HOST).depth <= 3
    assert link.moved / 12 > 0.9 * 25e6


def test_depth_shrinks_with_failures() -> None:
    link = modelled([64 * KIB] * 8000, capacity=25e6, each=4e6)
    link.scheduler.fill(KEY)
    link.run(12.0)
    before = link.scheduler.link(HOST).depth
    link.scheduler.failed(link.fetches[-1].number, link.now, host=True)
    assert link.scheduler.link(HOST).depth == before // 2


def test_the_link_is_measured() -> None:
    link = modelled([64 * KIB] * 4000, capacity=10e6, rtt=0.08)
    link.scheduler.fill(KEY)
    link.run(6.0)
    found = link.scheduler.link(HOST)
    assert found.first_byte == pytest.approx(0.08, rel=0.2)
    assert found.rate == pytest.approx(10e6, rel=0.25)
    assert found.extension == pytest.approx(800_000, rel=0.5)


# -- failures


@pytest.mark.parametrize(("want", "longest"), [(Want.PREFETCH, 15.0), (Want.DEMAND, 2.0)])
def test_failures_are_waited_out_ever_longer_and_forgotten_with_success(want: Want, longest: float) -> None:
    scheduler = scheduler_of(Blob([MIB] * 4))
    scheduler.want(KEY, [0], want, 0.0)
    now, pauses = 0.0, []
    for _ in range(10):
        (fetch,) = scheduler.next(now)
        assert fetch.units[0] == 0
        scheduler.failed(fetch.number, now, host=True)
        assert scheduler.next(now) == []
        wake = scheduler.wake(now)
        assert wake is not None
        pauses.append(wake - now)
        now = wake
    assert 0.125 <= pauses[0] <= 0.25
    assert all(longest / 2 <= pause <= longest for pause in pauses[7:])
    (fetch,) = scheduler.next(now)
    finish(scheduler, fetch, now)
    scheduler.want(KEY, [3], want, now)
    (fetch,) = scheduler.next(now)
    scheduler.failed(fetch.number, now, host=True)
    wake = scheduler.wake(now)
    assert wake is not None
    assert wake - now <= 0.25


def test_what_came_wrong_is_left_alone_by_itself() -> None:
    scheduler = scheduler_of(Blob([MIB] * 4))
    scheduler.want(KEY, [1], Want.DEMAND, 0.0)
    (fetch,) = scheduler.next(0.0)
    scheduler.spoiled(fetch.number, 1, 0.0)
    scheduler.ended(fetch.number, 0.0)
    scheduler.fill(KEY)
    others: set[int] = set()
    for other in scheduler.next(0.01):
        others.update(other.units)
        finish(scheduler, other, 0.02)
    assert others == {0, 2, 3}
    assert scheduler.next(0.05) == []
    wake = scheduler.wake(0.05)
    assert wake is not None
    (again,) = scheduler.next(wake)
    assert again.units == (1,)
    assert again.want is Want.DEMAND


def test_a_bad_blob_does_not_hold_up_its_host() -> None:
    scheduler = scheduler_of(Blob([MIB] * 4))
    scheduler.add("other", HOST, [0], [10])
    scheduler.want(KEY, [0], Want.DEMAND, 0.0)
    (fetch,) = scheduler.next(0.0)
    scheduler.failed(fetch.number, 0.0, host=False)
    scheduler.want("other", [0], Want.DEMAND, 0.0)
    assert [fetch.blob for fetch in scheduler.next(0.0)] == ["other"]


def test_who_has_left_waits_no_more() -> None:
    scheduler = scheduler_of(Blob([MIB] * 4))
    scheduler.want(KEY, [0], Want.DEMAND, 0.0)
    (fetch,) = scheduler.next(0.0)
    scheduler.failed(fetch.number, 0.0, host=True)
    scheduler.unwant(KEY, [0])
    assert scheduler.wake(0.0) is None
    assert scheduler.next(100.0) == []


def test_a_server_without_ranges_is_asked_once_at_a_time() -> None:
    scheduler = scheduler_of(Blob([MIB] * 10))
    scheduler.want(KEY, [5], Want.DEMAND, 0.0)
    (fetch,) = scheduler.next(0.0)
    scheduler.took_whole(fetch.number)
    assert scheduler.coming(fetch.number) == tuple(range(10))
    scheduler.want(KEY, [1, 9], Want.DEMAND, 0.0)
    scheduler.fill(KEY)
    assert scheduler.next(0.0) == []
    for unit in range(4):
        scheduler.arrived(KEY, unit)
    scheduler.failed(fetch.number, 0.0, host=True)
    (fetch,) = scheduler.next(100.0)
    assert fetch.whole
    assert (fetch.offset, fetch.length, fetch.units) == (0, 10 * MIB, tuple(range(4, 10)))


def test_a_blob_that_is_forgotten_leaves_nothing_in_the_air() -> None:
    scheduler = scheduler_of(Blob([MIB] * 4))
    scheduler.fill(KEY)
    scheduler.want(KEY, [3], Want.DEMAND, 0.0)
    started = scheduler.next(0.0)
    scheduler.remove(KEY)
    for fetch in started:
        assert not scheduler.received(fetch.number, 10, 0.1)
        scheduler.arrived(KEY, fetch.units[0])
        scheduler.failed(fetch.number, 0.2, host=True)
    link = scheduler.link(HOST)
    assert (link.demands, link.others) == (0, 0)
    assert scheduler.next(1.0) == []
