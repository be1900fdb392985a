"""What requests mean, and which names registries.conf lets the mirror be asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.errors import ConfigError
from als.mirror.routes import Kind, Part, Route, Span, blob_part, is_addressed_to, is_our_own, parse_range, parse_target
from als.registry.conf import parse_conf
from als.registry.mirrored import addresses, location_for, name_behind, reference_behind

DIGEST = "sha256:" + "a" * 64
PORT = 4780


@pytest.mark.parametrize(
    ("target", "route"),
    [
        ("/v2/", Route(Kind.PING)),
        ("/v2", Route(Kind.PING)),
        ("/v2/docker.io/library/x/manifests/latest", Route(Kind.MANIFEST, "docker.io/library/x", "latest")),
        (f"/v2/h__5000/x/manifests/{DIGEST}", Route(Kind.MANIFEST, "h__5000/x", DIGEST)),
        (f"/v2/h/manifests/manifests/blobs/{DIGEST}?ns=x", Route(Kind.BLOB, "h/manifests/manifests", DIGEST)),
        ("/v2/h/x/manifests/sha256-abc.sig", Route(Kind.MANIFEST, "h/x", "sha256-abc.sig")),
    ],
)
def test_targets(target: str, route: Route) -> None:
    assert parse_target(target) == route


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/_ping",
        "/v2/_catalog",
        "/v2/h/x/tags/list",
        f"/v2/h/x/referrers/{DIGEST}",
        "/v2/h/x/blobs/latest",
        "/v2/h/x/blobs/sha256:abc",
        "/v2/h/x/manifests/" + "t" * 129,
        "/v2/h/x/manifests/.dot",
        "/v2/h/x/manifests/a%2fb",
        "/v2/h%3a80/x/manifests/a",
        "/v2/H/x/manifests/a",
        "http://registry/v2/h/x/manifests/a",
        "/v2/h/x/blobs/uploads/",
        "/v2//manifests/a",
    ],
)
def test_no_targets(target: str) -> None:
    assert parse_target(target) is None


def test_hosts_and_agents() -> None:
    ours = addresses(PORT)
    assert is_addressed_to("127.0.0.1:4780", ours)
    assert is_addressed_to("LocalHost:4780", ours)
    assert not is_addressed_to("127.0.0.1", ours)
    assert not is_addressed_to("127.0.0.1:80", ours)
    assert not is_addressed_to("rebound.example:4780", ours)
    assert not is_addressed_to(None, ours)
    assert addresses(0) == frozenset()
    assert is_our_own("als/0.1")
    assert not is_our_own("containers/5.39.2 (github.com/containers/image)")


def test_ranges() -> None:
    assert parse_range(None) is None
    assert parse_range("bytes=0-") == Span(0, None)
    assert parse_range("bytes=10-19") == Span(10, 10)
    for header in ("bytes=0-1,4-5", "bytes=-5", "lines=1-2", "bytes=9-3", "bytes=", "bytes=" + "1" * 19 + "-"):
        with pytest.raises(ValueError, match=r"=|-"):
            parse_range(header)


@given(st.integers(0, 50), st.none() | st.integers(1, 50), st.integers(0, 60))
def test_parts_are_what_a_slice_is(start: int, length: int | None, size: int) -> None:
    whole = bytes(range(size))
    part = blob_part(Span(start, length), size)
    wanted = whole[start : None if length is None else start + length]
    if part is None:
        assert not wanted
        return
    assert part.length == len(wanted)
    assert part.headers["Content-Range"] == f"bytes {start}-{start + len(wanted) - 1}/{size}"


def test_whole_blobs() -> None:
    assert blob_part(None, 7) == Part(200, {"Content-Length": "7"}, 7)
    assert blob_part(None, None) == Part(200, {}, None)
    assert blob_part(Span(0, None), None) is None


def conf(*blocks: tuple[str, str, str]) -> str:
    return "".join(
        f'[[registry]]\nprefix = "{prefix}"\nlocation = "{location}"\n[[registry.mirror]]\nlocation = "{mirror}"\n'
        for prefix, location, mirror in blocks
    )


CONF = (
    conf(
        ("docker.io", "docker.io", "127.0.0.1:4780/docker.io"),
        ("docker.io/team", "docker.io/team", "127.0.0.1:4780/docker.io/team"),
        ("registry.example:5000", "registry.example:5000", "127.0.0.1:4780/registry.example__5000"),
        ("quay.example", "proxy.example/quay", "localhost:4780/q"),
        ("other.example", "other.example", "127.0.0.1:9999/other.example"),
        ("elsewhere.example", "elsewhere.example", "mirror.example/elsewhere"),
        ("twice-a.example", "twice-a.example", "127.0.0.1:4780/twice"),
        ("twice-b.example", "twice-b.example", "127.0.0.1:4780/twice"),
        ("root.example", "root.example", "127.0.0.1:4780"),
    )
    + '[[registry]]\nprefix = "*.wild.example"\n[[registry.mirror]]\nlocation = "127.0.0.1:4780/wild"\n'
)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("docker.io/library/x", "docker.io/library/x"),
        ("docker.io/team/x", "docker.io/team/x"),
        ("registry.example__5000/a/b", "registry.example:5000/a/b"),
        ("q/a", "quay.example/a"),
        ("other.example/x", None),
        ("elsewhere.example/x", None),
        ("elsewhere/x", None),
        ("unknown.example/x", None),
        ("docker.iox/x", None),
        ("twice/x", None),
        ("root.example/x", None),
        ("wild/x", None),
        ("x", None),
    ],
)
def test_only_what_registries_conf_names(path: str, name: str | None) -> None:
    parsed = parse_conf(CONF, "test")
    assert name_behind(parsed, path, PORT) == name
    found = reference_behind(parsed, path, "tag", PORT)
    assert (None if found is None else str(found)) == (None if name is None else f"{name}:tag")


def test_references() -> None:
    parsed = parse_conf(CONF, "test")
    found = reference_behind(parsed, "q/a", DIGEST, PORT)
    assert str(found) == f"quay.example/a@{DIGEST}"
    for path in ("docker.io", "docker.io/x/", "docker.io//x", "docker.io/x.", "docker.io/-x", "docker.io/" + "x" * 255):
        assert reference_behind(parsed, path, "tag", PORT) is None
    # What it stands for would be library/x there: not the name that was asked for.
    assert reference_behind(parsed, "docker.io/x", "tag", PORT) is None


def test_locations_lead_back() -> None:
    for prefix in ("docker.io", "registry.example:5000", "quay.example/team", "localhost:5000/a"):
        location = location_for(prefix, PORT)
        assert ":" not in location.partition("/")[2]
        parsed = parse_conf(conf((prefix, prefix, location)), "test")
        assert name_behind(parsed, f"{location.partition('/')[2]}/x", PORT) == f"{prefix}/x"
    for prefix in ("*.example.com", "[::1]:5000", "Registry.Example"):
        with pytest.raises(ConfigError, match="cannot be asked"):
            location_for(prefix, PORT)


def test_als_never_asks_its_own_mirror() -> None:
    parsed = parse_conf(CONF, "test")
    reference = reference_behind(parsed, "q/a", "tag", PORT)
    assert reference is not None
    assert [endpoint.name for endpoint in parsed.endpoints(reference, addresses(PORT))] == ["proxy.example/quay/a"]
    assert [endpoint.name for endpoint in parsed.endpoints(reference)] == ["localhost:4780/q/a", "proxy.example/quay/a"]


@given(st.text(alphabet="/v2manifestsblobs:._-%?#@[]0Aé\0 ", max_size=80) | st.text(max_size=80))
def test_whatever_is_asked_for_is_a_target_of_ours_or_none(target: str) -> None:
    for text in (target, f"/v2/{target}", f"/v2/{target}/manifests/t", f"/v2/x/manifests/{target}", f"/v2/x/blobs/{target}"):
        route = parse_target(text)
        if route is None or route.kind is Kind.PING:
            continue
        assert text.startswith(f"/v2/{route.path}/{route.kind.value}/{route.name}")
        assert not set(route.path + route.name) & set("%?#@[] \0")
        found = reference_behind(parse_conf(CONF, "test"), route.path, route.name, PORT)
        assert found is None or found.tag_or_digest == route.name
