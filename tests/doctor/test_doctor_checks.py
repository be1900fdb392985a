"""The judgement over facts of machines good and bad."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from als.doctor.checks import Finding, Level, diagnose, worst
from als.doctor.facts import Answer, Facts, PodmanFacts
from tests.doctor.machines import FRESH_DEBIAN, GOOD, GOOD_CONF, MODERN, STORE, kernel, with_conf, with_store


def bad(facts: Facts) -> list[Finding]:
    return [finding for finding in diagnose(facts) if finding.level is not Level.OK]


def only(facts: Facts) -> Finding:
    (finding,) = bad(facts)
    return finding


def test_a_good_machine() -> None:
    assert bad(GOOD) == bad(MODERN) == []
    assert worst(diagnose(GOOD)) is Level.OK
    assert any("podman --root" in finding.what for finding in diagnose(GOOD))


@pytest.mark.parametrize("facts", [GOOD, FRESH_DEBIAN, replace(GOOD, kernel=kernel("fuse"))])
def test_what_is_wrong_has_a_remedy_and_what_is_right_has_none(facts: Facts) -> None:
    for finding in diagnose(facts):
        assert bool(finding.remedy) is (finding.level is not Level.OK), finding


def test_fresh_debian() -> None:
    findings = bad(FRESH_DEBIAN)
    errors = [(finding.subject, finding.what) for finding in findings if finding.level is Level.ERROR]
    assert [subject for subject, _ in errors] == ["/var/lib/als/store", "/var/lib/als/is4"] + 3 * ["no storage.conf"]
    assert [
        "additionallayerstores" in errors[2][1],
        "additionalimagestores" in errors[3][1],
        "metacopy" in errors[4][1],
    ] == 3 * [True]
    warned = {finding.subject for finding in findings if finding.level is Level.WARN}
    assert warned == {"erofs_from_files", "fuse_resend", "verity", "reflinks"}
    assert worst(findings) is Level.ERROR


@pytest.mark.parametrize(
    ("absent", "level"),
    [
        (["fuse"], Level.ERROR),
        (["erofs"], Level.ERROR),
        (["metacopy"], Level.ERROR),
        (["erofs_from_files"], Level.WARN),
        (["erofs_from_files", "loop_devices"], Level.ERROR),
        (["loop_devices"], Level.OK),
        (["verity"], Level.WARN),
        (["data_only_lowers"], Level.OK),
        (["cgroup2"], Level.WARN),
    ],
)
def test_kernel_features(absent: list[str], level: Level) -> None:
    assert worst(diagnose(replace(GOOD, kernel=kernel(*absent)))) is level


@pytest.mark.parametrize("options", [(), ("nodev",), ("metacopy=off",), ("metacopy=on", "metacopy=off"), ("xmetacopy=on",)])
def test_without_metacopy_it_is_an_error(options: tuple[str, ...]) -> None:
    finding = only(with_conf(mount_options=options))
    assert finding.level is Level.ERROR
    assert "zeros" in finding.what
    assert finding.remedy.startswith('`als setup --apply`: mountopt = "nodev,metacopy=on"')


@pytest.mark.parametrize(
    ("stores", "what"),
    [
        ((), "does not name /var/lib/als/store"),
        (("/var/lib/als/store",), "without `:ref`"),
        (("/var/lib/other/store:ref",), "it names /var/lib/other/store"),
        (("/var/lib/als:ref",), "does not name"),
    ],
)
def test_wrong_layer_store(stores: tuple[str, ...], what: str) -> None:
    finding = only(with_conf(layer_stores=stores))
    assert finding.level is Level.ERROR
    assert what in finding.what
    assert '["/var/lib/als/store:ref"]' in finding.remedy


def test_ours_may_be_one_of_several_stores() -> None:
    stores = ("/var/lib/stargz-store/store:ref", "/var/lib/als/store/:ref")
    assert bad(with_conf(layer_stores=stores, image_stores=("/usr/lib/images", "/var/lib/als/is4/"))) == []


@pytest.mark.parametrize(
    ("version", "store"), [((4, 3, 1), "is4"), ((4, 9, 4), "is4"), ((5, 4, 2), "image-store"), ((6, 0), "image-store")]
)
def test_each_podman_needs_its_image_store(version: tuple[int, ...], store: str) -> None:
    facts = with_conf(image_stores=())
    finding = only(replace(facts, podman=replace(facts.podman, version=version)))
    assert finding.level is Level.ERROR
    assert f"does not name /var/lib/als/{store}" in finding.what
    assert finding.remedy.startswith(f'`als setup --apply`: additionalimagestores = ["/var/lib/als/{store}"]')


OLD, NEW = "/var/lib/als/is4", "/var/lib/als/image-store"


@pytest.mark.parametrize(
    ("version", "stores", "found"),
    [
        ((4, 3, 1), (NEW,), [(Level.ERROR, "does not name"), (Level.ERROR, f"names {NEW}, whose layout")]),
        ((4, 3, 1), (OLD, NEW), [(Level.ERROR, f"names {NEW}, whose layout")]),
        ((5, 4, 2), (OLD,), [(Level.ERROR, "does not name"), (Level.ERROR, f"names {OLD}, whose layout")]),
        ((5, 4, 2), (OLD, NEW + "/"), [(Level.WARN, f"names {OLD}, whose layout")]),
    ],
)
def test_the_image_store_of_another_podman(
    version: tuple[int, ...], stores: tuple[str, ...], found: list[tuple[Level, str]]
) -> None:
    facts = with_conf(image_stores=stores)
    findings = bad(replace(facts, podman=replace(facts.podman, version=version)))
    assert [finding.level for finding in findings] == [level for level, _ in found]
    assert all(text in finding.what for finding, (_, text) in zip(findings, found, strict=True))


@pytest.mark.parametrize(
    ("version", "level"), [((3, 4, 4), Level.ERROR), ((4, 3, 1), Level.OK), ((5, 4, 2), Level.OK), ((5, 5, 0), Level.OK)]
)
def test_podman_versions(version: tuple[int, ...], level: Level) -> None:
    good = GOOD if version < (5,) else MODERN
    assert worst(diagnose(replace(good, podman=replace(good.podman, version=version)))) is level


def test_user_namespaces_of_podman_4() -> None:
    (finding,) = [finding for finding in diagnose(GOOD) if finding.subject == "podman"]
    assert "docs/podman4.md" in finding.what
    (finding,) = [
        finding
        for finding in diagnose(replace(GOOD, podman=replace(GOOD.podman, idmapped=False)))
        if finding.subject == "podman"
    ]
    assert finding.what == "version 4.3.1"


@pytest.mark.parametrize(
    ("changes", "level", "what"),
    [
        ({"listening": False}, Level.WARN, "nobody listens"),
        ({"registries": ()}, Level.WARN, "no registry"),
        ({"elsewhere": ("docker.io",)}, Level.WARN, "another port than 4780 for docker.io"),
        ({"problem": "x: not TOML"}, Level.ERROR, "not TOML"),
    ],
)
def test_the_mirror(changes: dict[str, Any], level: Level, what: str) -> None:
    mirror = replace(MODERN.mirror, **changes)
    finding = only(replace(MODERN, mirror=mirror))
    assert (finding.level, finding.subject) == (level, "registries.conf")
    assert what in finding.what
    # podman 4 has no use for it; a file that nobody understands is bad for everybody.
    assert len(bad(replace(GOOD, mirror=mirror))) == (1 if mirror.problem else 0)


def test_a_mirror_that_is_switched_off() -> None:
    assert bad(replace(MODERN, mirror=replace(MODERN.mirror, port=0, listening=False, registries=()))) == []


def test_what_hides_the_file() -> None:
    podman = replace(
        GOOD.podman, hiding=("STORAGE_OPTS=overlay.x=y",), rootless=(Path("/home/u/.config/containers/storage.conf"),)
    )
    first, second = bad(replace(GOOD, podman=podman))
    assert "STORAGE_OPTS" in first.what
    assert (second.subject, second.level) == ("/home/u/.config/containers/storage.conf", Level.WARN)


def test_a_user_is_told_of_his_own_files_alone() -> None:
    conf = Path("/home/u/.config/containers/storage.conf")
    podman = replace(GOOD.podman, storage=None, rootless=(conf,))
    user, finding = bad(replace(GOOD, podman=podman, superuser=False))
    assert (user.subject, finding.level, finding.subject) == ("user", Level.ERROR, str(conf))
    assert "zeros" in finding.what


def test_folders_that_users_can_enter() -> None:
    finding = only(with_store(opened=(Path("/var/lib/als/image-store"),)))
    assert (finding.level, finding.subject) == (Level.ERROR, "/var/lib/als/image-store")
    assert "zeros" in finding.what and "chmod go=" in finding.remedy


def test_data_only_lowers_matter_to_podman_5() -> None:
    facts = replace(MODERN, kernel=kernel("data_only_lowers"))
    assert only(facts).subject == "data_only_lowers"


def test_no_podman() -> None:
    podman = PodmanFacts(version=None, problem="podman is not installed", storage=GOOD_CONF, storage_problem="")
    finding = only(replace(GOOD, podman=podman))
    assert (finding.level, finding.what) == (Level.WARN, "podman is not installed")


def test_a_storage_conf_that_is_not_understood() -> None:
    podman = replace(GOOD.podman, storage=None, storage_problem="x: not TOML", problem="`podman info` fails: bad")
    subjects = [finding.subject for finding in bad(replace(GOOD, podman=podman))]
    assert subjects == ["podman", "storage.conf"]


def test_no_storage_conf_at_all() -> None:
    finding = only(replace(GOOD, podman=replace(GOOD.podman, storage=None)))
    assert finding.remedy == "`als setup --apply`"


def test_driver_and_mount_program() -> None:
    assert "'vfs'" in only(with_conf(driver="vfs")).what
    assert "fuse-overlayfs" in only(with_conf(mount_program="/usr/bin/fuse-overlayfs")).what


@pytest.mark.parametrize(
    ("answer", "mounted", "level", "remedy"),
    [
        (Answer.FINE, False, Level.WARN, "systemctl start als"),
        (Answer.MISSING, False, Level.ERROR, "mkdir -p /var/lib/als/store"),
        (Answer.DEAD, True, Level.ERROR, "umount -l /var/lib/als/store"),
        (Answer.HANGS, True, Level.ERROR, "umount -l /var/lib/als/store"),
        (Answer.REFUSED, True, Level.ERROR, "ls -ld"),
    ],
)
def test_layer_store(answer: Answer, mounted: bool, level: Level, remedy: str) -> None:
    finding = only(with_store(layer_store_answer=answer, layer_store_mounted=mounted))
    assert (finding.level, finding.subject) == (level, "/var/lib/als/store")
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("changes", "level", "subject"),
    [
        ({"image_store4_answer": Answer.MISSING}, Level.ERROR, "/var/lib/als/is4"),
        ({"image_store4_answer": Answer.HANGS}, Level.ERROR, "/var/lib/als/is4"),
        ({"free_bytes": 1 << 30}, Level.WARN, "space"),
        ({"free_bytes": 1 << 20}, Level.ERROR, "space"),
        ({"free_inodes": 100_000}, Level.WARN, "space"),
        ({"free_inodes": 10}, Level.ERROR, "space"),
        ({"mounts": 90_000}, Level.WARN, "mounts"),
        ({"beside_graph_root": False}, Level.WARN, "graph root"),
    ],
)
def test_state_of_the_store(changes: dict[str, object], level: Level, subject: str) -> None:
    finding = only(with_store(**changes))
    assert (finding.level, finding.subject) == (level, subject)


@pytest.mark.parametrize("changes", [{"total_inodes": 0, "free_inodes": 0}, {"mounts_limit": 0}, {"beside_graph_root": None}])
def test_what_is_not_known_is_not_held_against_it(changes: dict[str, object]) -> None:
    assert bad(with_store(**changes)) == []


def test_not_root() -> None:
    assert only(replace(GOOD, superuser=False)).subject == "user"


@pytest.mark.parametrize(
    ("sealed", "options", "level", "word"),
    [
        (True, ("metacopy=on",), Level.WARN, "lacks verity=require"),
        (True, ("metacopy=on", "verity=require", "verity=off"), Level.WARN, "lacks verity=require"),
        (True, ("metacopy=on", "verity=require"), Level.OK, "has verity=require"),
        (False, ("metacopy=on", "verity=require"), Level.ERROR, "not sealed as well"),
    ],
)
def test_the_mount_option_goes_with_the_setting(sealed: bool, options: tuple[str, ...], level: Level, word: str) -> None:
    facts = replace(with_conf(mount_options=options), store=replace(STORE, sealed=sealed))
    [finding] = [finding for finding in diagnose(facts) if "verity" in finding.what]
    assert (finding.level, word in finding.what) == (level, True)


def test_without_sealing_nothing_is_said_of_the_mount_option() -> None:
    assert not [finding for finding in diagnose(GOOD) if "verity=" in finding.what]


def test_required_sealing_needs_the_kernel() -> None:
    facts = replace(GOOD, kernel=kernel("verity"), store=replace(STORE, sealed=True))
    [finding] = [finding for finding in diagnose(facts) if finding.subject == "verity"]
    assert finding.level is Level.ERROR
