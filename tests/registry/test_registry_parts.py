"""The client's small parsers and decisions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.errors import ConfigError
from als.model.platform import Platform
from als.registry.blob import ContentRange, parse_content_range
from als.registry.challenge import Challenge, parse_challenges
from als.registry.environment import Environment
from als.registry.host import host_platform, platform_of
from als.registry.retry import Deadline, parse_retry_after, pause_before
from als.registry.settings import Proxies, Settings
from als.registry.transport import show


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["Basic"], [("basic", {})]),
        (['BASIC realm="a b"'], [("basic", {"realm": "a b"})]),
        (
            ['Bearer realm="https://a/t",service="x, y",scope="repository:a/b:pull,push"'],
            [("bearer", {"realm": "https://a/t", "service": "x, y", "scope": "repository:a/b:pull,push"})],
        ),
        (
            ['Negotiate, Basic realm=x , Bearer realm = "q\\"uoted"'],
            [("negotiate", {}), ("basic", {"realm": "x"}), ("bearer", {"realm": 'q"uoted'})],
        ),
        (["Basic realm=a", "Bearer realm=b"], [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        ([""], []),
        (['Basic realm="unclosed'], [("basic", {}), ("realm", {})]),
    ],
)
def test_challenges(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    found = parse_challenges(headers)
    assert found[: len(expected)] == tuple(Challenge(scheme, parameters) for scheme, parameters in expected)[: len(found)]


@given(st.lists(st.text(alphabet='Bearer=",\\ \t', max_size=60), max_size=3))
def test_challenges_end(headers: list[str]) -> None:
    parse_challenges(headers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/10", ContentRange(0, 10, 10)),
        ("bytes 5-5/*", ContentRange(5, 6, None)),
        ("bytes */10", ContentRange(None, None, 10)),
        ("bytes 5-4/10", None),
        ("bytes 0-10/10", None),
        ("bytes 0-0/0", None),
        ("octets 0-9/10", None),
        (None, None),
    ],
)
def test_content_range(text: str | None, expected: ContentRange | None) -> None:
    assert parse_content_range(text) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 0),
        ("7", 7),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0),
        ("-5", 0),
        ("soon", 0),
        ("9" * 5000, 999_999_999),
    ],
)
def test_retry_after(text: str | None, seconds: float) -> None:
    assert parse_retry_after(text, datetime(2015, 10, 21, 7, 28, 0, tzinfo=UTC)) == seconds


def test_pauses_grow_and_differ() -> None:
    settings = Settings(backoff=1, backoff_max=5)
    for attempt, longest in ((1, 1), (2, 2), (3, 4), (4, 5), (60, 5)):
        pauses = {pause_before(attempt, settings, None) for _ in range(50)}
        assert len(pauses) > 1 and longest / 2 <= min(pauses) and max(pauses) <= longest
    assert pause_before(1, settings, "30") == 30
    assert Deadline(-1).remaining == 0


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "proxied"),
    [
        ("", "a.io", 443, True),
        ("*", "a.io", 443, False),
        ("a.io", "a.io", 443, False),
        ("a.io", "x.A.io", 443, False),
        ("a.io", "xa.io", 443, True),
        (".a.io", "a.io", 443, True),
        (".a.io", "x.a.io", 443, False),
        ("*.a.io", "x.a.io", 443, False),
        ("a.io:5000", "a.io", 443, True),
        ("b.io, a.io:443 ,", "a.io", 443, False),
        ("10.0.0.0/8", "10.1.2.3", 443, False),
        ("10.0.0.0/8", "11.1.2.3", 443, True),
        ("10.1.2.3", "10.1.2.3", 443, False),
        ("10.1.2.3:80", "10.1.2.3", 443, True),
        ("fd00::/8", "fd00::1", 443, False),
        ("[fd00::1]:443", "fd00::1", 443, False),
        ("", "localhost", 443, False),
        ("", "127.0.0.9", 443, False),
        ("", "::1", 443, False),
    ],
)
def test_proxies(no_proxy: str, host: str, port: int, proxied: bool, environment: Environment) -> None:
    """The meaning that Go's golang.org/x/net/http/httpproxy gives to these variables."""
    variables = {"HTTPS_PROXY": "proxy.example:3128", "http_proxy": "http://other:1", "no_proxy": no_proxy}
    proxies = Proxies.from_environment(Environment(variables, environment.home, 0))
    assert proxies.choose("https", host, port) == ("http://proxy.example:3128" if proxied else "")


def test_bad_proxy(environment: Environment) -> None:
    with pytest.raises(ConfigError) as caught:
        Proxies.from_environment(Environment({"HTTPS_PROXY": "socks5://me:hush@x"}, environment.home, 0))
    assert "hush" not in str(caught.value)


def test_urls_in_errors() -> None:
    assert show("https://me:hush@a.io:5/v2/x?signature=hush#hush") == "https://a.io:5/v2/x"
    assert show("http://[") == "a malformed URL"


def test_platforms() -> None:
    assert platform_of("x86_64") == Platform("linux", "amd64")
    assert platform_of("aarch64") == Platform("linux", "arm64", "v8")
    assert platform_of("armv7l") == Platform("linux", "arm", "v7")
    assert platform_of("armv7l", "model name\t: ARMv6-compatible processor rev 7") == Platform("linux", "arm", "v6")
    assert platform_of("armv6l") == Platform("linux", "arm", "v6")
    assert platform_of("s390x") == Platform("linux", "s390x")
    assert host_platform().os == "linux"
