"""References: the grammar's tables, and that the canonical form is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.errors import BadReference
from als.model.digest import Digest
from als.model.reference import Reference, Transport, is_short_name, parse_reference

HEX = "0123456789abcdef" * 4
SHA = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:12", "docker.io/library/debian:12"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest"),
        ("docker.io/library/debian", "docker.io/library/debian:latest"),
        ("index.docker.io/debian", "docker.io/library/debian:latest"),
        ("index.docker.io/team/app:1", "docker.io/team/app:1"),
        ("docker://quay.io/a/b/c", "quay.io/a/b/c:latest"),
        ("docker:24", "docker.io/library/docker:24"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("Registry.Example/x", "Registry.Example/x:latest"),
        ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest"),
        ("[::1]/x", "[::1]/x:latest"),
        ("[fd00::1]:5000/x/y:z", "[fd00::1]:5000/x/y:z"),
        ("xn--n3h.example/x", "xn--n3h.example/x:latest"),
        (f"debian@{SHA}", f"docker.io/library/debian@{SHA}"),
        (f"debian:12@{SHA}", f"docker.io/library/debian@{SHA}"),
        (f"a.io:1/b:c@{SHA}", f"a.io:1/b@{SHA}"),
        (f"a.io/b@sha512:{HEX}{HEX}", f"a.io/b@sha512:{HEX}{HEX}"),
        ("a.io/a.b_c__d---e/f", "a.io/a.b_c__d---e/f:latest"),
        ("a.io/x:_", "a.io/x:_"),
        ("a.io/x:" + "T" * 128, "a.io/x:" + "T" * 128),
        ("a.io/" + "x" * 250, "a.io/" + "x" * 250 + ":latest"),
        (HEX[:-1], f"docker.io/library/{HEX[:-1]}:latest"),
    ],
)
def test_names(text: str, canonical: str) -> None:
    """The expectations follow containers/image's docker/reference."""
    reference = parse_reference(text)
    assert str(reference) == canonical
    assert parse_reference(canonical) == reference
    assert (reference.tag is None) != (reference.digest is None)


@pytest.mark.parametrize(
    ("text", "path", "tag"),
    [
        ("oci:/var/images", "/var/images", None),
        ("oci:dir:", "dir", None),
        ("oci:dir:tag", "dir", "tag"),
        ("oci:dir:team/app:1.0", "dir", "team/app:1.0"),
        ("oci:dir:@3", "dir", "@3"),
        ("oci-archive:/a b/c.tar:x", "/a b/c.tar", "x"),
        ("oci:docker.io/x:y", "docker.io/x", "y"),
    ],
)
def test_local(text: str, path: str, tag: str | None) -> None:
    reference = parse_reference(text)
    assert (reference.path, reference.tag, reference.domain, reference.digest) == (path, tag, "", None)
    assert reference.transport is (Transport.OCI if text.startswith("oci:") else Transport.OCI_ARCHIVE)
    assert parse_reference(str(reference)) == reference
    assert reference.tag_or_digest == (tag or "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("Debian", "did you mean 'debian'"),
        ("a.io/Team/App:1", "did you mean 'team/app'"),
        (HEX, "NAME@sha256"),
        ("https://a.io/x", "URL"),
        ("docker://", "missing"),
        ("a.io/", "missing"),
        ("a.io/x/", "not the name"),
        ("a.io//x", "not the name"),
        ("/x", "not the name"),
        ("a.io/-x", "not the name"),
        ("a.io/x-", "not the name"),
        ("a.io/x_._y", "not the name"),
        ("a.io/x___y", "not the name"),
        ("a.io/é", "not the name"),
        ("a.io/x y", "not the name"),
        ("x:", "tag"),
        ("x:.a", "tag"),
        ("x:" + "t" * 129, "tag"),
        ("x:a:b", "tag"),
        ("x:é", "tag"),
        ("x\n", "not the name"),
        ("x:1\n", "tag"),
        ("a_b.io/x", "host"),
        ("-a.io/x", "host"),
        ("a.io:/x", "host"),
        ("a.io:5x/x", "host"),
        ("[::1/x", "host"),
        ("x@", "digest"),
        ("x@sha256:" + HEX[:-1], "digest"),
        ("x@sha256:" + HEX.upper(), "digest"),
        (f"x@{SHA}@{SHA}", "digest"),
        ("a.io/" + "x" * 251, "255"),
        ("x" * 9000, "too long"),
        ("dir:/tmp/x", "oci: layout"),
        ("docker-archive:/tmp/x.tar", "oci: layout"),
        ("oci:", "path"),
        ("oci::x", "path"),
        ("oci:dir:a b", "name an image"),
        ("oci:dir:@x", "name an image"),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(BadReference, match=says):
        parse_reference(text)


LABEL = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,8}[a-zA-Z0-9])?", fullmatch=True)
DOMAIN = st.builds(
    lambda labels, port: ".".join(labels) + port, st.lists(LABEL, min_size=2, max_size=3), st.sampled_from(["", ":5000"])
)
COMPONENT = st.from_regex(r"[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
PATH = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join)
TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@given(DOMAIN, PATH, st.one_of(st.none(), TAG), st.one_of(st.none(), st.binary(min_size=32, max_size=32)))
def test_canonical_form_is_one(domain: str, path: str, tag: str | None, digest: bytes | None) -> None:
    text = f"{domain}/{path}" + (f":{tag}" if tag else "") + (f"@{Digest.sha256(digest)}" if digest else "")
    reference = parse_reference(text)
    assert parse_reference(str(reference)) == reference
    assert reference.name == f"{domain}/{path}"
    assert reference.tag == (None if digest else tag or "latest")
    assert not is_short_name(text)


@given(st.one_of(st.text(max_size=80), st.text(alphabet="aA0./:@_-[]", max_size=80)))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except BadReference:
        return
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("a", True),
        ("a/b:c", True),
        ("a.io/b", False),
        ("localhost/b", False),
        ("a:1/b", False),
        ("oci:a", False),
        ("docker://a", False),
    ],
)
def test_short_names(text: str, short: bool) -> None:
    assert is_short_name(text) is short


def test_with_digest() -> None:
    reference = parse_reference("debian:12").with_digest(Digest.parse(SHA))
    assert reference == Reference(Transport.DOCKER, "library/debian", "docker.io", digest=Digest.parse(SHA))
