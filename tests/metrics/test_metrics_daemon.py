"""A daemon's metrics while a lazy image is read, beside what the registry says of the same bytes."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.harness.ocilayout import REF_NAME
from tests.harness.system import free_port, wait_until
from tests.lazily.conftest import Open, lazy_registry, opened, proxy, shop, site
from tests.lazily.images import contents, layer
from tests.lazily.site import QUIET, Lazy, Shop, Site
from tests.lazy.faultyregistry import Answer
from tests.lazy.site import noise
from tests.metrics.scraping import Scrape, metrics_of

__all__ = ["lazy_registry", "opened", "proxy", "shop", "site"]

DASHBOARD = Path(__file__).parents[2] / "packaging" / "grafana" / "als.json"
LARGE = noise(3_000_000, 5)


def scrape(site: Site) -> Scrape:
    return Scrape(site.als.run / "metrics.sock")


def image_of(shop: Shop, name: str, files: dict[str, bytes]) -> Lazy:
    return shop.image(name, [layer("estargz", files)])


def test_the_numbers_are_the_registrys(site: Site, shop: Shop) -> None:
    image = image_of(shop, "metrics", {**contents(20, 40_000), "d/large": LARGE})
    before = scrape(site)
    assert before("als_bytes_total") == 0
    assert before("als_build_info") == 1
    site.look_up(image)
    with site.mounts():
        root = site.mount_by_chain(image)
        assert (root / "d/large").read_bytes() == LARGE
        after = scrape(site)
    listed = json.loads((shop.layout.folder / "index.json").read_bytes())["manifests"]
    manifest = next(each["size"] for each in listed if each["annotations"][REF_NAME] == "metrics")
    blobs = site.proxy.sent_bytes()
    rest = after("als_bytes_total", source="registry") - blobs
    assert blobs > len(LARGE)
    assert rest >= manifest, "the manifest came as well"
    assert rest % manifest == 0, "and nothing else"
    waited, here = (after("als_lazy_read_seconds_count", outcome=outcome) for outcome in ("waited", "here"))
    assert waited >= 1
    assert waited + here >= len(LARGE) // (1 << 20), "the kernel asks for a MiB at a time at most"
    assert after("als_lazy_read_seconds_sum", outcome="waited") > 0
    assert after("als_lazy_read_seconds_count", outcome="failed") == 0
    assert after("als_chunk_seconds_count") >= len(LARGE) // (128 << 10), "each of the file's chunks came once"
    assert after("als_chunk_seconds_count", want="demand") >= 1
    assert (after("als_layers", state="lazy"), after("als_images", state="lazy"), after("als_open_layers")) == (1, 1, 1)
    assert after("als_workers") >= 1
    assert after("als_disk_bytes") > after("als_disk_free_bytes") > 0
    assert not {label for label in after.labels if image.reference in label or site.proxy.address in label}


def test_files_that_were_here_are_counted_as_saved(site: Site, shop: Shop) -> None:
    first = image_of(shop, "metrics-first", {"d/shared": LARGE})
    second = image_of(shop, "metrics-second", {"d/shared": LARGE, "d/own": noise(50_000, 9)})
    site.look_up(first)
    with site.mounts():
        assert (site.mount_by_chain(first) / "d/shared").read_bytes() == LARGE
    wait_until(lambda: any(site.als.root.glob("objects/*/*")), "the file has its name in the store")
    saved = scrape(site)("als_bytes_total", source="store_file")
    site.look_up(second)
    assert scrape(site)("als_bytes_total", source="store_file") - saved == len(LARGE)


def test_errors_are_counted_by_kind(site: Site, shop: Shop) -> None:
    image = image_of(shop, "metrics-errors", {"d/large": LARGE})
    site.look_up(image)

    def gone(answer: Answer) -> None:
        answer.status, answer.body = 404, b""

    with site.mounts():
        root = site.mount_by_chain(image)
        site.proxy.fault = gone
        with pytest.raises(OSError):
            (root / "d/large").read_bytes()
        found = scrape(site)
    assert found("als_lazy_read_seconds_count", outcome="failed") >= 1
    assert found("als_fetch_errors_total", kind="NotFound") >= 1
    assert found("als_errors_total", level="warning", kind="NotFound") >= 1


def test_the_socket_is_roots_and_goes_with_the_daemon(site: Site) -> None:
    path = site.als.run / "metrics.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    site.als.stop(signal.SIGKILL)
    site.als.start()
    assert scrape(site)("als_build_info") == 1
    site.als.stop()
    assert not path.exists()


def test_a_port_of_loopback(opened: Open) -> None:
    port = free_port()
    site = opened({**QUIET, "metrics_port": port})
    over_tcp, over_socket = Scrape(port), scrape(site)
    assert over_tcp.names == over_socket.names


def test_a_port_that_is_taken_is_no_reason_not_to_serve(opened: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        site = opened({**QUIET, "metrics_port": port})
        assert f"no metrics: 127.0.0.1:{port}: cannot listen" in site.als.log_text()
        assert scrape(site)("als_build_info") == 1


def test_many_who_ask_and_say_nothing_stop_nobody_for_long(site: Site) -> None:
    path = str(site.als.run / "metrics.sock")
    idle = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    try:
        for each in idle:
            each.connect(path)
        refused = [each for each in idle[8:] if each.recv(1) == b""]
        assert len(refused) == 12, "eight are heard, the others are told at once that they are not"
    finally:
        for each in idle:
            each.close()
    wait_until(lambda: _answers(site), "who has gone makes room")


def _answers(site: Site) -> bool:
    try:
        return scrape(site)("als_build_info") == 1
    except OSError:
        return False


def test_the_dashboard_asks_for_what_there_is(site: Site) -> None:
    document = json.loads(DASHBOARD.read_text("utf-8"))
    expressions = [target["expr"] for panel in document["panels"] for target in panel.get("targets", ())]
    assert len(expressions) >= 8
    found = scrape(site)
    names = found.names | {"als_fetch_errors_total", "als_errors_total"}
    for expression in expressions:
        assert metrics_of(expression), expression
        assert metrics_of(expression) <= names, expression
        for label in re.findall(r'="([a-z_]+)"', expression):
            assert label in found.labels, expression


def test_every_metric_is_described(site: Site) -> None:
    text = (DASHBOARD.parents[2] / "docs" / "metrics.md").read_text("utf-8")
    families = {name for name in scrape(site).names if name.startswith("als_")}
    families = {re.sub("_(bucket|count|sum|created)$", "", name) for name in families}
    missing = {name for name in families if name not in text and f"{name}_total" not in text}
    assert not missing
