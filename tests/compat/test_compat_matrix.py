"""The cells of docs/compatibility.md. Each test is a row; ``site`` runs through the columns.

The order matters within a column: the image is pulled once, and removed in the end.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.compat.cells import KINDS, SUITES, Cell
from tests.compat.site import BUSYBOX, WITH_BUSYBOX, Site, blobs_sent, own_data
from tests.harness.archives import diff_ids_of_archive, pushed_diff_ids
from tests.harness.disk import drop_from_cache, resident_bytes
from tests.harness.podman import Podman

MAPPED = ("--uidmap", "0:1000000:65536", "--gidmap", "0:1000000:65536")

pytestmark = pytest.mark.parametrize(
    "site",
    [pytest.param((suite, kind), id=f"{suite}-{kind}") for suite in SUITES for kind in KINDS],
    indirect=True,
    scope="module",
)


def test_pull(site: Site, cell: Cell) -> None:
    """Each layer was downloaded once at most, by als; podman unpacked nothing."""
    for layer in site.manifest["layers"]:
        assert blobs_sent(site.requests, layer["digest"]) == 1
    assert own_data(site.podman) == [], site.stack.als.log_text()[-4000:]
    assert own_data(site.plain) != []


def test_run(site: Site, cell: Cell) -> None:
    """Every byte is right, and it is the store's object that was read."""
    random = site.merged["/var/lib/random.bin"]
    stored = site.stack.als.object_path(random["sha256"])
    drop_from_cache(stored)
    assert resident_bytes(stored) == 0
    seen = site.sums()
    expected = site.expected_sums()
    assert {path: seen.get(path) for path in expected} == expected
    assert resident_bytes(stored) > 0
    assert own_data(site.podman) == []


def test_images(site: Site, cell: Cell) -> None:
    """The list is what it is without als: digest, size, names."""

    def listed(podman: Podman) -> dict[str, Any]:
        (row,) = podman.json("images", "--format", "json", site.reference)
        return {key: row[key] for key in ("Id", "Digest", "Size", "Names", "RepoDigests", "Created")}

    assert_same_image(site, cell, listed(site.podman), listed(site.plain))
    assert listed(site.podman)["Digest"] == site.digest


def test_inspect(site: Site, cell: Cell) -> None:
    """The same as without als, but for the folders."""
    ours, theirs = (podman.json("image", "inspect", site.reference)[0] for podman in (site.podman, site.plain))
    assert ours.pop("GraphDriver") != theirs.pop("GraphDriver")
    assert ours["RootFS"]["Layers"] == site.diff_ids
    assert_same_image(site, cell, ours, theirs)


def assert_same_image(site: Site, cell: Cell, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """What podman says of the image with als and without."""
    if site.by_toc:
        assert ours.pop("Id") != theirs.pop("Id")
        cell.note("id-by-toc")
    assert ours == theirs


def test_system_df(site: Site, cell: Cell) -> None:
    """The image's size and what could be reclaimed, as without als."""
    if site.major < 5:
        form = "{{.Type}} {{.Total}} {{.Active}} {{.Size}} {{.Reclaimable}}"
        assert site.podman.text("system", "df", "--format", form) == site.plain.text("system", "df", "--format", form)
        return
    stores = (site.podman, site.plain)
    ours, theirs = ({row["Type"]: row for row in one.json("system", "df", "--format", "json")} for one in stores)
    if site.by_toc and site.podman.version >= (5, 5):
        assert ours["Images"]["RawSize"] - theirs["Images"]["RawSize"] == site.layer_bytes
        assert ours["Images"]["Total"] == theirs["Images"]["Total"] == 1
        cell.note("df-twice")
        return
    assert ours == theirs


def test_system_check(site: Site, cell: Cell) -> None:
    if site.major < 5:
        assert b"unrecognized command" in site.podman("system", "check", status=125).stderr
        cell.instead("no-system-check")
        return
    site.podman("system", "check")


def test_image_diff(site: Site, cell: Cell) -> None:
    """The changes of the top layer, no more and no less."""

    def changes(podman: Podman) -> dict[str, set[str]]:
        shown = podman.json("image", "diff", "--format", "json", site.reference)
        return {kind: set(paths) for kind, paths in shown.items()}

    assert changes(site.podman) == changes(site.plain)
    assert {"/opt/data/new1", "/var/lib/random.bin"} <= changes(site.podman)["added"]
    assert "/etc/removed.conf" in changes(site.podman)["deleted"]


def test_save(site: Site, cell: Cell, tmp_path: Path) -> None:
    site.podman("save", "-q", "--format", "oci-archive", "-o", tmp_path / "saved.tar", site.reference)
    assert diff_ids_of_archive(tmp_path / "saved.tar") == site.diff_ids


def test_push(site: Site, cell: Cell, tmp_path: Path) -> None:
    """To a registry that has nothing of it; layers arrive whole."""
    target = f"{site.elsewhere}/{site.suite}/{site.kind}:1"
    site.podman("push", "-q", site.reference, target)
    assert pushed_diff_ids(target, tmp_path) == site.diff_ids


def test_commit(site: Site, cell: Cell, tmp_path: Path) -> None:
    """The committed layer has the change and nothing else, and a file that was only chmod'ed keeps its content."""
    podman = site.podman
    script = "chmod 600 /var/lib/random.bin; echo x >/new; rm /etc/passwd"
    podman("run", "--name", "c", *WITH_BUSYBOX, site.reference, BUSYBOX, "sh", "-c", script)
    podman("commit", "-q", "c", "localhost/committed:1")
    podman("rm", "c")
    try:
        lines = podman.text("image", "diff", "localhost/committed:1").splitlines()
        assert sorted(lines) == sorted(
            ["C /etc", "D /etc/passwd", "A /new", f"A {BUSYBOX}", "C /var", "C /var/lib", "C /var/lib/random.bin"]
        )
        podman("save", "-q", "--format", "oci-archive", "-o", tmp_path / "committed.tar", "localhost/committed:1")
        assert diff_ids_of_archive(tmp_path / "committed.tar")[:-1] == site.diff_ids
        entry = site.merged["/var/lib/random.bin"]
        script = "stat -c %a%s /var/lib/random.bin; sha256sum </var/lib/random.bin"
        shown = podman.run("localhost/committed:1", BUSYBOX, "sh", "-c", script, options=WITH_BUSYBOX)
        assert shown.split() == [f"600{entry['size']}", entry["sha256"], "-"]
    finally:
        podman("rmi", "localhost/committed:1")


def test_userns(site: Site, cell: Cell, tmp_path: Path) -> None:
    """Owners are those of the image, seen from inside; nothing is copied to give files other owners."""
    podman = site.podman
    if site.major < 5:
        refused = podman("run", "--rm", "--pull=never", *MAPPED, *WITH_BUSYBOX, site.reference, BUSYBOX, "true", status=127)
        assert b"no such file or directory" in refused.stderr
        assert own_data(podman) == []
        assert podman.text("ps", "-aq") == ""
        own_root = ("--root", site.short / "g2", "--runroot", site.short / "r2")
        podman(*own_root, "run", "--rm", "-q", *MAPPED, *WITH_BUSYBOX, site.reference, BUSYBOX, "test", "-O", "/etc/os-release")
        cell.instead("userns-4")
        return
    owners = "stat -c '%u %g' / /etc/passwd /etc/shadow /var/lib/hl-a /var/lib/hugeuid; cat /proc/self/uid_map"
    seen = site.run(owners, *MAPPED).splitlines()
    assert seen[:4] == ["0 0", "0 0", "0 42", "33 33"]
    assert seen[4] == "65534 65534", "what has no mapping is nobody's"
    assert seen[5].split() == ["0", "1000000", "65536"]
    expected = {path: digest for path, digest in site.expected_sums().items() if site.merged[path]["uid"] < 65536}
    sums = site.sums(*MAPPED)
    assert {path: sums.get(path) for path in expected} == expected
    assert own_data(podman) == []


def test_restart_of_the_client(site: Site, cell: Cell) -> None:
    """As after a reboot: image and container are still there, and the registry is not asked for anything."""
    podman = site.podman
    podman("create", "--name", "kept", *WITH_BUSYBOX, site.reference, BUSYBOX, "sha256sum", "/var/lib/random.bin")
    before = len(site.stack.registry.requests())
    podman.reboot()
    assert podman.text("start", "-a", "kept").split()[0] == site.merged["/var/lib/random.bin"]["sha256"]
    assert podman.layers(site.reference) == site.diff_ids
    done = podman("run", "--rm", *WITH_BUSYBOX, site.reference, BUSYBOX, "cat", "/opt/data/new1")
    assert hashlib.sha256(done.stdout).hexdigest() == site.merged["/opt/data/new1"]["sha256"]
    podman("rm", "kept")
    assert site.since(before) == [], "all of it was known"


def test_daemon_stopped(site: Site, cell: Cell, tmp_path: Path) -> None:
    """Nothing hangs: what is here runs, what is not is pulled as if there were no als."""
    podman = site.podman
    site.stack.als.stop()
    try:
        assert site.run("sha256sum </var/lib/random.bin").split()[0] == site.merged["/var/lib/random.bin"]["sha256"]
        assert podman.layers(site.reference) == site.diff_ids
        save = ("save", "-q", "--format", "oci-archive", "-o", tmp_path / "saved.tar", site.reference)
        podman(*save)
        assert diff_ids_of_archive(tmp_path / "saved.tar") == site.diff_ids
        # To a folder: a registry that has the layers already would not be sent them.
        podman("push", "-q", site.reference, f"dir:{tmp_path}/pushed")
        podman.pull(site.unknown)
        assert own_data(podman) != []
        assert podman.run(site.unknown, "cat", "/marker") == "pulled plainly\n"
        podman("rmi", site.unknown)
    finally:
        site.stack.als.start()
    podman("save", "-q", "--format", "oci-archive", "-o", tmp_path / "again.tar", site.reference)


def test_rmi(site: Site, cell: Cell) -> None:
    """The image is gone for the client, and can be pulled again without a download."""
    podman = site.podman
    podman("rmi", site.reference)
    assert podman("image", "exists", site.reference, status=None).returncode == 1
    assert own_data(podman) == []
    before = len(site.stack.registry.requests())
    site.stack.pull(site.reference)
    assert not any(blobs_sent(site.since(before), layer["digest"]) for layer in site.manifest["layers"])
    assert site.run("cat /opt/data/new1")
