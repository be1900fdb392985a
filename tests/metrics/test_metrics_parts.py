"""Counting without a daemon."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from als.errors import NotFound, RegistryUnavailable
from als.metrics import state
from als.metrics.errors import counted, kind_of
from als.metrics.meters import Meters
from als.model.counting import Counters, NotCounted, Outcome, Saved
from tests.harness.policy import ExpectedLogs


def record(*args: object) -> logging.LogRecord:
    return logging.LogRecord("als.x", logging.WARNING, __file__, 1, "%s", args, None)


def test_the_kind_of_a_complaint() -> None:
    assert kind_of(record(NotFound("x"))) == "NotFound"
    assert kind_of(record("somewhere", RegistryUnavailable("x"))) == "RegistryUnavailable"
    assert kind_of(record("only words")) == "other"
    assert kind_of(logging.LogRecord("als", logging.ERROR, __file__, 1, "none", None, None)) == "other"
    raised = NotFound("x")
    assert kind_of(logging.LogRecord("als", logging.ERROR, __file__, 1, "x", None, (NotFound, raised, None))) == "NotFound"


def test_complaints_are_counted_while_somebody_counts(expect_log: ExpectedLogs) -> None:
    expect_log("one|two")
    registry = CollectorRegistry()
    log = logging.getLogger("als.test")
    with counted(registry):
        log.warning("one: %s", NotFound("gone"))
        log.info("not a complaint: %s", NotFound("gone"))
    log.warning("two: %s", NotFound("gone"))
    assert registry.get_sample_value("als_errors_total", {"level": "warning", "kind": "NotFound"}) == 1


def test_two_registries_know_nothing_of_each_other() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    meters = [Meters(first), Meters(second)]
    meters[0].received(7)
    assert first.get_sample_value("als_bytes_total", {"source": "registry"}) == 7
    assert second.get_sample_value("als_bytes_total", {"source": "registry"}) == 0


@pytest.mark.parametrize("made", [NotCounted, lambda: Meters(CollectorRegistry())])
def test_both_are_counters(made: type[NotCounted]) -> None:
    counters: Counters = made()
    counters.received(1)
    counters.saved(Saved.LAYER, 1)
    counters.fetched("gate", 2, 0.1)
    counters.read(Outcome.HERE, 0.1)
    counters.troubled("NotFound")


def test_the_store_is_not_measured_for_every_scrape(tmp_path: Path) -> None:
    for name in ("00", "01"):
        (tmp_path / name).mkdir()
    (tmp_path / "00" / "a").write_bytes(bytes(5000))
    (tmp_path / "note").write_text("not a folder of objects")
    space = state.StoreSpace(tmp_path)
    size, count = space.measured()
    assert (size, count) == (8192, 1)
    (tmp_path / "01" / "b").write_bytes(b"x")
    assert space.measured() == (size, count)
    assert state.StoreSpace(tmp_path).measured()[1] == 2
