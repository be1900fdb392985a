"""Which policy.json holds, and that podman itself draws the same line."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from als.errors import ConfigError
from als.imagestore.policy import may_list, policy_file
from als.model.policy import Listing
from als.model.reference import parse_reference
from tests.harness.images import ImageFactory
from tests.harness.podman import Podman, Storage
from tests.harness.registry import RegistryServer

REFERENCE = parse_reference("quay.io/ns/app:1")
ACCEPT, REJECT, SIGNED = (
    [{"type": "insecureAcceptAnything"}],
    [{"type": "reject"}],
    [{"type": "signedBy", "keyType": "GPGKeys", "keyData": ""}],
)


def write(path: Path, requirements: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"default": requirements}))
    return path


def test_the_user_s_file_hides_the_system_s(tmp_path: Path) -> None:
    home, root = tmp_path / "home", tmp_path / "root"
    assert policy_file(home, root) is None
    system = write(root / "etc/containers/policy.json", REJECT)
    assert policy_file(home, root) == system
    assert may_list(REFERENCE, home, root=root).listing is Listing.REJECTED
    user = write(home / ".config/containers/policy.json", ACCEPT)
    assert policy_file(home, root) == user
    assert may_list(REFERENCE, home, root=root).listing is Listing.LISTED
    user.write_text("{}")
    with pytest.raises(ConfigError, match=str(user)):
        may_list(REFERENCE, home, root=root)


def test_without_a_file_layers_are_served_and_the_log_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        verdict = may_list(REFERENCE, tmp_path, root=tmp_path)
    assert verdict.listing is Listing.LAYERS_ONLY
    assert f"no policy.json: {REFERENCE}" in caplog.text


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "etc/containers/policy.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        may_list(REFERENCE, tmp_path, root=tmp_path)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (ACCEPT, ACCEPT, Listing.LISTED),
        (ACCEPT, SIGNED, Listing.LAYERS_ONLY),
        (ACCEPT, REJECT, Listing.LAYERS_ONLY),
        (SIGNED, ACCEPT, Listing.LAYERS_ONLY),
        (REJECT, ACCEPT, Listing.REJECTED),
    ],
)
def test_another_client_s_policy_can_forbid_the_listing_only(
    tmp_path: Path, own: list[dict[str, str]], other: list[dict[str, str]], expected: Listing
) -> None:
    write(tmp_path / "etc/containers/policy.json", own)
    theirs = write(tmp_path / "crio.json", other)
    assert may_list(REFERENCE, tmp_path / "home", (theirs,), root=tmp_path).listing is expected


def test_an_oci_layout_is_judged_by_where_it_really_lies(tmp_path: Path) -> None:
    (tmp_path / "real/image").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    policy = {"default": REJECT, "transports": {"oci": {str(tmp_path.resolve() / "real"): ACCEPT}}}
    write(tmp_path / "etc/containers/policy.json", ACCEPT).write_text(json.dumps(policy))
    for folder, expected in (("link/image", Listing.LISTED), ("elsewhere", Listing.REJECTED)):
        reference = parse_reference(f"oci:{tmp_path / folder}")
        assert may_list(reference, tmp_path, root=tmp_path).listing is expected


def test_podman_pulls_what_may_be_listed_and_nothing_else(as_root: None, module_dir: Path) -> None:
    """One unsigned image under policies of all kinds: podman's own pull succeeds if and only if als may list the image."""
    images = ImageFactory(module_dir / "oci")
    images.runnable("img")
    with (
        RegistryServer(module_dir / "registry") as registry,
        Podman(module_dir / "podman", Storage(insecure=(registry.host,))) as podman,
    ):
        name = registry.push(images.layout.name("img"), "team/img:1")
        reference = parse_reference(name)
        host = registry.address
        file = podman.base / ".config/containers/policy.json"
        docker = [
            ({name: ACCEPT, f"{host}/team/img": REJECT}, Listing.LISTED),
            ({f"{host}/team/img": ACCEPT, f"{host}/team": REJECT}, Listing.LISTED),
            ({f"{host}/team": ACCEPT, host: REJECT}, Listing.LISTED),
            ({host: ACCEPT, "*.0.0.1": REJECT}, Listing.LISTED),
            ({"*.0.1": ACCEPT, "": REJECT}, Listing.LISTED),
            ({f"{host}/tea": ACCEPT}, Listing.REJECTED),
            ({host.partition(":")[0]: ACCEPT}, Listing.REJECTED),
            ({host: SIGNED}, Listing.LAYERS_ONLY),
            ({host: [*ACCEPT, *SIGNED]}, Listing.LAYERS_ONLY),
            ({host: [*ACCEPT, *REJECT]}, Listing.REJECTED),
            ({"": ACCEPT}, Listing.LISTED),
        ]
        for scopes, expected in docker:
            file.write_text(json.dumps({"default": REJECT, "transports": {"docker": scopes}}))
            assert may_list(reference, podman.base).listing is expected, scopes
            done = podman.pull(name, status=0 if expected is Listing.LISTED else 125)
            assert (b"rejected" in done.stderr) is (expected is not Listing.LISTED), scopes
        for malformed in ('{"default": []}', '{"default": [{"type": "any"}]}', '{"default": [{"type": "reject", "x": 1}]}'):
            file.write_text(malformed)
            with pytest.raises(ConfigError):
                may_list(reference, podman.base)
            assert b"invalid policy" in podman.pull(name, status=125).stderr
