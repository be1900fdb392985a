"""What a reference names while an image is published under it, and after that has failed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from als.errors import NotFound
from als.model.digest import Digest
from als.service import Service
from als.service.naming import named

REFERENCE = "registry.example/image:1"
OURS, THEIRS, OLD = (Digest.of(b"manifest %d" % number) for number in range(3))


def give(service: Service, publish: Callable[[Callable[[], None]], None]) -> None:
    named(service, REFERENCE, OURS, OURS, publish)


def name_of(service: Service) -> Digest | None:
    ref = service.images.ref(REFERENCE)
    return None if ref is None else ref.digest


@pytest.mark.parametrize("before", [None, OLD])
def test_it_is_named_between_the_disk_and_the_list(service: Service, before: Digest | None) -> None:
    if before is not None:
        service.images.name(REFERENCE, before, before)
    seen: list[Digest | None] = []

    def publish(durable: Callable[[], None]) -> None:
        seen.append(name_of(service))
        # Of each image store.
        for _ in range(2):
            durable()
            seen.append(name_of(service))

    give(service, publish)
    assert seen == [before, OURS, OURS] and name_of(service) == OURS


def test_what_is_listed_already_is_named_as_well(service: Service) -> None:
    give(service, lambda durable: None)
    assert name_of(service) == OURS


@pytest.mark.parametrize("before", [None, OLD])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_what_cannot_be_listed_is_not_named(service: Service, before: Digest | None, late: bool) -> None:
    if before is not None:
        service.images.name(REFERENCE, before, before)

    def publish(durable: Callable[[], None]) -> None:
        if late:
            durable()
        raise NotFound("no such layer")

    with pytest.raises(NotFound):
        give(service, publish)
    assert name_of(service) == before


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_name_that_somebody_else_has_given_meanwhile_stays(service: Service, late: bool) -> None:
    def publish(durable: Callable[[], None]) -> None:
        if late:
            durable()
        service.images.name(REFERENCE, THEIRS, THEIRS)
        raise NotFound("no such layer")

    with pytest.raises(NotFound):
        give(service, publish)
    assert name_of(service) == THEIRS
