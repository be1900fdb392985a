"""Services that pull what strangers made, and what has to hold whenever they refuse it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from als.config import Config
from als.errors import AlsError
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.reference import parse_reference
from als.service import Service
from als.store.images import ImageRecord
from als.worker.client import Workers
from tests.harness.ocilayout import Layout
from tests.harness.system import unmount_below

REPOSITORY = Path(__file__).parents[2]
NOBODY = (65534, 65534)
OpenService = Callable[..., Service]


def pull(service: Service, layout: Layout, tag: str = "bad") -> ImageRecord:
    return service.pull(parse_reference(layout.name(tag)))


def held(service: Service) -> list[str]:
    """Whatever a store holds that an empty one does not."""
    layout = service.layout
    found = [f"tmp/{name}" for name in os.listdir(layout.tmp)]
    found += [f"layers/{name}" for name in os.listdir(layout.layers)]
    found += [f"images/{name}" for name in os.listdir(layout.images)]
    found += [f"refs/{name}" for name in os.listdir(layout.refs)]
    found += [f"objects/{path.name}" for path in layout.objects.rglob("*") if path.is_file()]
    found += [f"is4/{chain_id}" for chain_id in service.diff_n.published()]
    found += [f"is4/overlay/{name}" for name in os.listdir(layout.image_store_4 / "overlay") if name != "l"]
    return found


def refused(service: Service, layout: Layout, error: type[AlsError] = AlsError, tag: str = "bad") -> AlsError:
    """Pull an image that must be refused with a clear error, and of which nothing may stay."""
    before = held(service)
    with pytest.raises(error) as caught:
        pull(service, layout, tag)
    assert caught.value.what
    assert caught.value.where
    assert str(caught.value).isprintable(), "an error holds nothing that a terminal would obey"
    assert len(str(caught.value)) < 2000
    assert held(service) == before
    return caught.value


def refused_or(service: Service, layout: Layout, expected: Callable[[ImageRecord], None], tag: str = "bad") -> bool:
    """Pull an image that may be refused as :func:`refused` has it, or else has to be served right; True: it was refused."""
    before = held(service)
    try:
        image = pull(service, layout, tag)
    except AlsError as error:
        assert error.what
        assert held(service) == before
        return True
    expected(image)
    return False


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "images")


@pytest.fixture
def open_service(tmp_path: Path, as_root: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenService]:
    """Makes services, each on a store of its own.

    :param limits: what a layer may ask for.
    :param lie: the name of what workers do instead of their work (see tests/hostile/liars.py).
    :param stall: seconds without progress after which a pull is given up.
    """
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("ALS_LIE_LAYOUT", str(tmp_path / "images"))
    roots: list[Path] = []
    with ExitStack() as stack:

        def make(*, limits: Limits = DEFAULT_LIMITS, lie: str = "", stall: float = 20.0) -> Service:
            base = tmp_path / f"s{len(roots)}"
            roots.append(base)
            config = Config(root=base / "root", run=base / "run", worker_user=str(NOBODY[0]), lookup_deadline=stall)
            workers = None
            if lie:
                monkeypatch.setenv("ALS_LIE", lie)
                workers = Workers(NOBODY, config.run / "empty", module="tests.hostile.liars")
            service = stack.enter_context(Service(config, workers=workers, limits=limits))
            if lie:
                service.workers.start()
            return service

        yield make
    unmount_below(*roots)


@pytest.fixture
def service(open_service: OpenService) -> Service:
    return open_service()
