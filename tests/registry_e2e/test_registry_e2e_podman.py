"""``podman pull`` of an image behind a password: als finds the credential where podman has it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack
from tests.registry_e2e.conftest import HTPASSWD, PASSWORD


def test_podman_pull_with_basic(as_root: None, module_dir: Path) -> None:
    (module_dir / "htpasswd").write_text(HTPASSWD)
    images = ImageFactory(module_dir / "oci")
    images.runnable("secret", [TarBuilder().file("secret", b"s" * 5000).build()])
    auth = {"auth": {"htpasswd": {"realm": "here", "path": str(module_dir / "htpasswd")}}}
    with RegistryServer(module_dir / "registry", auth) as server, Stack(module_dir / "s", server) as stack:
        reference = server.push(images.layout.name("secret"), "team/secret:1", f"--dest-creds=user:{PASSWORD}")
        assert stack.podman.pull(reference, status=None).returncode, "without a password there is nothing"
        stack.podman("login", "--authfile", stack.podman.base / "auth.json", "-u", "user", "-p", PASSWORD, server.address)
        stack.pull(reference)
        assert stack.podman.run(reference, "wc", "-c", "/secret").split() == ["5000", "/secret"]
        listed = json.loads((stack.als.image_store / "overlay-layers/layers.json").read_bytes())
        published = {layer["diff-digest"] for layer in listed}
        assert set(stack.podman.layers(reference)) <= published
        assert stack.als.json("images")[0]["reference"] == reference
        assert PASSWORD not in stack.als.log_text()
        stack.podman("rmi", "-f", reference)
