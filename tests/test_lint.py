"""The linters run as tests, so that one command shows everything; and the size limits of CONTRIBUTING.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKED = ("als", "cffi_build", "tests", "bench", "packaging")
TYPED = ("als", "cffi_build", "tests/harness", "bench")
MODULE_LINES = 400
FUNCTION_LINES = 60


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def run_tool(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"


def test_ruff_check() -> None:
    run_tool("ruff", "check", "--no-cache", ".")


def test_ruff_format() -> None:
    run_tool("ruff", "format", "--check", "--no-cache", ".")


def test_mypy_strict() -> None:
    run_tool("mypy", "--strict", *(folder for folder in TYPED if python_files(folder)))


def test_module_length() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in python_files(*CHECKED)}
    too_long = {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > MODULE_LINES}
    assert not too_long, f"modules of more than {MODULE_LINES} lines: {too_long}"


def test_function_length() -> None:
    too_long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in python_files(*CHECKED)
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]
    assert not too_long, f"functions of more than {FUNCTION_LINES} lines: {too_long}"


FORBIDDEN = {
    "# type" + ": ignore": "fix the type",
    "TO" + "DO": "do it",
    "FIX" + "ME": "fix it",
    "NotImplemented" + "Error": "no stubs",
}


@pytest.mark.parametrize("text", FORBIDDEN)
def test_nothing_left_for_later(text: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in python_files(*CHECKED)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if text in line
    ]
    assert not found, f"{text} ({FORBIDDEN[text]}): {found}"
