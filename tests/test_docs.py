"""The documents do not lie about the tree: links lead somewhere, commands exist, no package registry's host is built in."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from als.cli.main import cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
CODE_BLOCK = re.compile(r"^```(?:sh|console|bash)\b[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED_PATH = re.compile(r"`((?:als|cffi_build|tests|packaging|bench|docs|\.ci)/[\w./-]*)`")
PACKAGE_REGISTRY = re.compile(
    r"\b(?:pypi\.org|pythonhosted\.org|deb\.debian\.org|crates\.io|registry\.npmjs\.org|repo1\.maven\.org|proxy\.golang\.org)\b"
)

pytestmark = pytest.mark.skipif(not DOCUMENTS, reason="no documents in this tree")


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_links_and_paths_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    links = [target for target in LINK.findall(text) if "://" not in target and not target.startswith("mailto:")]
    missing = [target for target in links if not (document.parent / target).exists()]
    missing += [target for target in NAMED_PATH.findall(text) if not (ROOT / target).exists()]
    assert not missing, f"{ids(document)} names what does not exist: {missing}"


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def als_commands() -> set[str]:
    return set(cli.list_commands(click.Context(cli)))


def shell_lines(document: Path) -> list[list[str]]:
    blocks = CODE_BLOCK.findall(document.read_text("utf-8"))
    lines = [line.strip().removeprefix("$ ").split("#")[0].split() for block in blocks for line in block.splitlines()]
    return [words[1:] if words[0] == "sudo" else words for words in lines if words]


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_commands_exist(document: Path) -> None:
    for words in shell_lines(document):
        if words[0] == "make":
            targets = [word for word in words[1:] if re.fullmatch(r"[a-z]+", word)]
            assert set(targets) <= make_targets(), f"{ids(document)}: {' '.join(words)}"
        elif words[0] == "als" and len(words) > 1:
            command = next((word for word in words[1:] if re.fullmatch(r"[a-z]+", word)), None)
            assert command in als_commands(), f"{ids(document)}: {' '.join(words)}"


def test_readme_gives_the_two_commands() -> None:
    commands = {" ".join(words[:2]) for words in shell_lines(ROOT / "README.md")}
    assert {"make demo", "make test"} <= commands


def test_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"]["als"] == "als.cli.main:main"


def tracked_files() -> list[Path]:
    """Files that git tracks or would; without git (an exported tree) every file of the tree's own folders."""
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    return [
        path
        for folder in ("als", "cffi_build", "tests", "packaging", "bench", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    ]


def test_no_package_registry_is_named() -> None:
    """Packages come from where the machine is configured to get them."""
    hits = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked_files()
        if path.suffix not in {".zst", ".gz", ".so"} and path != Path(__file__)
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if PACKAGE_REGISTRY.search(line)
    ]
    assert not hits
