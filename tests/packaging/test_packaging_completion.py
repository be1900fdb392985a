"""Completion, asked of real shells as the package installs it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.harness.system import run

BASH = """
. "$1"
COMP_WORDS=(als "$2"); COMP_CWORD=1; COMP_LINE="als $2"; COMP_POINT=${#COMP_LINE}
handler=$(complete -p als | sed 's/.*-F \\([^ ]*\\) als$/\\1/')
"$handler" als "$2" als
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def path_with_als(tmp_path_factory: pytest.TempPathFactory, unpacked: Path) -> dict[str, str]:
    """A PATH on which the package's program is, run by the interpreter of these tests."""
    folder = tmp_path_factory.mktemp("bin")
    (packages,) = unpacked.glob("usr/lib*/python3*/*-packages")
    program = folder / "als"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {sys.executable} -P {unpacked}/usr/bin/als "$@"\n', "utf-8")
    program.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def need(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


def test_bash_completes_verbs(unpacked: Path, path_with_als: dict[str, str]) -> None:
    script = unpacked / "usr/share/bash-completion/completions/als"
    done = run("bash", "-c", BASH, "bash", script, "st", env=path_with_als)
    assert done.stdout.decode().split() == ["status"]


def test_zsh_reads_its_file(unpacked: Path, path_with_als: dict[str, str]) -> None:
    need("zsh")
    script = unpacked / "usr/share/zsh/site-functions/_als"
    run("zsh", "-n", script)
    assert script.read_text("utf-8").startswith("#compdef als\n"), "compinit finds it by that"
    shown = "compdef() { print -- $1 $2 }; source $1; print -- $+functions[_als_completion]"
    done = run("zsh", "-f", "-c", shown, "zsh", script, env=path_with_als)
    assert done.stdout.decode().split() == ["_als_completion", "als", "1"]


def test_fish_completes_verbs(unpacked: Path, path_with_als: dict[str, str], tmp_path: Path) -> None:
    need("fish")
    script = unpacked / "usr/share/fish/vendor_completions.d/als.fish"
    environment = {**path_with_als, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = run("fish", "--no-config", "-c", f"source {script}; complete -C 'als stat'", env=environment)
    assert [line.split("\t")[0] for line in done.stdout.decode().splitlines()] == ["status"]
