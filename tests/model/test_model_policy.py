"""policy.json: which scope counts for an image, and what its requirements mean for us."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.errors import ConfigError, PolicyDenied
from als.model.policy import Listing, parse_policy, scopes_of
from als.model.reference import parse_reference

ACCEPT = {"type": "insecureAcceptAnything"}
REJECT = {"type": "reject"}
SIGNED = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/pki/key"}
SIGSTORE = {"type": "sigstoreSigned", "keyPath": "/etc/pki/key.pub", "signedIdentity": {"type": "matchRepository"}}
DIGEST = "sha256:" + "a" * 64


def verdict(policy: object, text: str = "quay.io/ns/app:1", path: str = "") -> Listing:
    return parse_policy(json.dumps(policy).encode(), "policy.json").verdict(parse_reference(text), path).listing


@pytest.mark.parametrize(
    ("requirements", "expected"),
    [
        ([ACCEPT], Listing.LISTED),
        ([ACCEPT, ACCEPT], Listing.LISTED),
        ([SIGNED], Listing.LAYERS_ONLY),
        ([SIGSTORE], Listing.LAYERS_ONLY),
        ([{"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}], Listing.LAYERS_ONLY),
        ([ACCEPT, SIGNED], Listing.LAYERS_ONLY),
        ([REJECT], Listing.REJECTED),
        ([SIGNED, REJECT], Listing.REJECTED),
        ([ACCEPT, REJECT], Listing.REJECTED),
    ],
)
def test_every_requirement_has_to_be_met(requirements: list[object], expected: Listing) -> None:
    assert verdict({"default": requirements}) is expected


def test_scopes_of_an_image_in_a_registry() -> None:
    """As DockerReferenceIdentity and DockerReferenceNamespaces of containers/image give them."""
    assert list(scopes_of(parse_reference("reg.eu.example.com:8443/a/b/c:1"))) == [
        "reg.eu.example.com:8443/a/b/c:1",
        "reg.eu.example.com:8443/a/b/c",
        "reg.eu.example.com:8443/a/b",
        "reg.eu.example.com:8443/a",
        "reg.eu.example.com:8443",
        "*.eu.example.com",
        "*.example.com",
        "*.com",
    ]
    assert list(scopes_of(parse_reference(f"busybox@{DIGEST}")))[:3] == [
        f"docker.io/library/busybox@{DIGEST}",
        "docker.io/library/busybox",
        "docker.io/library",
    ]
    assert list(scopes_of(parse_reference("localhost/x")))[-1] == "localhost"


def test_scopes_of_a_local_image() -> None:
    assert list(scopes_of(parse_reference("oci:some/where:tag"), "/srv/some/where")) == ["/srv/some/where", "/srv/some", "/srv"]


@given(depth=st.integers(0, 7))
def test_the_most_specific_scope_alone_counts(depth: int) -> None:
    scopes = list(scopes_of(parse_reference("reg.example.com/ns/app:1")))
    docker = {scope: [ACCEPT if place == depth else REJECT] for place, scope in enumerate(scopes) if place >= depth}
    policy = {"default": [REJECT], "transports": {"docker": docker}}
    expected = Listing.LISTED if depth < len(scopes) else Listing.REJECTED
    assert verdict(policy, "reg.example.com/ns/app:1") is expected


@pytest.mark.parametrize("scope", ["quay.io/n", "quay.io/ns/app:2", "*.quay.io", "quay.io/ns/", "io", "quay.io:443", "ns/app"])
def test_a_scope_matches_whole_names_only(scope: str) -> None:
    assert verdict({"default": [ACCEPT], "transports": {"docker": {scope: [REJECT]}}}) is Listing.LISTED


def test_a_transport_s_own_default() -> None:
    policy = {"default": [REJECT], "transports": {"docker": {"": [ACCEPT]}, "atomic": {"": [SIGNED]}}}
    assert verdict(policy) is Listing.LISTED
    assert verdict(policy, "oci:/srv/x", "/srv/x") is Listing.REJECTED


def test_paths_of_local_images() -> None:
    policy = {"default": [REJECT], "transports": {"oci": {"/srv/good": [ACCEPT]}, "oci-archive": {"/srv": [SIGNED]}}}
    assert verdict(policy, "oci:good/x:1", "/srv/good/x") is Listing.LISTED
    assert verdict(policy, "oci:goods", "/srv/goods") is Listing.REJECTED
    assert verdict(policy, "oci-archive:x.tar", "/srv/x.tar") is Listing.LAYERS_ONLY


def test_an_error_names_file_scope_and_image() -> None:
    policy = parse_policy(
        json.dumps({"default": [ACCEPT], "transports": {"docker": {"quay.io/ns": [REJECT]}}}).encode(), "/etc/policy.json"
    )
    reference = parse_reference("quay.io/ns/app:1")
    with pytest.raises(PolicyDenied, match=r"quay.io/ns/app:1: rejected by /etc/policy.json: the scope 'quay.io/ns' of docker"):
        policy.verdict(reference).check(reference)
    policy.verdict(parse_reference("quay.io/app:1")).check(reference)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", '"x"', "{}", '{"default": []}', '{"default": null}', '{"default": {}}', '{"default": ["reject"]}',
        '{"default": [{}]}', '{"default": [{"type": "Reject"}]}', '{"default": [{"type": "reject", "reason": "x"}]}',
        '{"default": [{"type": "insecureAcceptAnything", "type": "reject"}]}', '{"default": [{"type": 1}]}',
        '{"default": [{"type": "reject"}], "Default": []}',
        '{"default": [{"type": "reject"}], "default": [{"type": "reject"}]}',
        '{"default": [{"type": "reject"}], "transports": []}',
        '{"default": [{"type": "reject"}], "transports": {"docker": []}}',
        '{"default": [{"type": "reject"}], "transports": {"docker": {"x": []}}}',
        '{"default": [{"type": "reject"}], "transports": {"docker": {"x": null}}}',
        '{"default": [{"type": "reject"}], "transports": {"oci": {"/": [{"type": "reject"}]}}}',
        '{"default": [{"type": "reject"}], "transports": {"oci": {"a/b": [{"type": "reject"}]}}}',
        '{"default": [{"type": "reject"}], "transports": {"oci": {"/a/": [{"type": "reject"}]}}}',
        '{"default": [{"type": "reject"}]} x',
    ],
)  # fmt: skip
def test_what_is_not_understood_spoils_the_file(text: str) -> None:
    with pytest.raises(ConfigError, match=r"etc/policy\.json"):
        parse_policy(text.encode(), "/etc/policy.json")


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse_policy(data, "policy.json")
    except ConfigError as error:
        assert error.where.startswith("policy.json")
