"""Counters that the parts of als add to, see :class:`als.model.counting.Counters`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from als.model.counting import Outcome, Saved

REGISTRY = "registry"
"""The source of bytes that came over the network."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From a read out of the page cache to the deadline of one that waits for a registry."""
_WANTS = ("demand", "gate", "ahead", "prefetch", "background")


class Meters:
    """Thread-safe. Every series that can be is there from the start, so that a rate over it is right from the first event on.

    :param registry: an own one: two daemons in a process do not share their numbers.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        moved = Counter("als_bytes", "Bytes of images, by where they came from.", ["source"], registry=registry)
        self._received = moved.labels(REGISTRY)
        self._saved = {why: moved.labels(str(why)) for why in Saved}
        chunks = Histogram(
            "als_chunk_seconds",
            "From the request to the verified chunk, for chunks of lazy layers, by why they were fetched.",
            ["want"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._fetched = {want: chunks.labels(want) for want in _WANTS}
        reads = Histogram(
            "als_lazy_read_seconds",
            "Reads by containers of files in layers that are not complete, by how they ended.",
            ["outcome"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._read = {outcome: reads.labels(str(outcome)) for outcome in Outcome}
        self._troubled = Counter(
            "als_fetch_errors", "Requests for bytes of lazy layers that failed, by kind.", ["kind"], registry=registry
        )

    def received(self, count: int) -> None:
        """See :meth:`als.model.counting.Counters.received`."""
        self._received.inc(count)

    def saved(self, why: Saved, count: int) -> None:
        """See :meth:`als.model.counting.Counters.saved`."""
        self._saved[why].inc(count)

    def fetched(self, want: str, units: int, seconds: float) -> None:
        """See :meth:`als.model.counting.Counters.fetched`."""
        for _ in range(units):
            self._fetched[want].observe(seconds)

    def read(self, outcome: Outcome, seconds: float) -> None:
        """See :meth:`als.model.counting.Counters.read`."""
        self._read[outcome].observe(seconds)

    def troubled(self, kind: str) -> None:
        """See :meth:`als.model.counting.Counters.troubled`."""
        self._troubled.labels(kind).inc()
