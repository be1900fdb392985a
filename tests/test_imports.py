"""The import rule: who may know whom (docs/architecture.md). A new module in a new folder has to find its place here first."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "als"

PURE = {"errors", "model"}
PARTS = PURE | {"native", "formats", "registry", "store", "erofs", "verity"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "model": {"errors"},
    "config": PURE,
    "native": PURE | {"_crc64", "_kernel", "_seccomp"},
    "formats": PURE,
    "registry": PURE,
    "erofs": PURE,
    "verity": PURE | {"native", "_fsverity", "store", "erofs"},
    "store": PURE | {"native"},
    "mount": PARTS - {"formats", "registry"},
    "worker": PARTS,
    "fetch": PARTS | {"worker"},
    "lazy": PARTS | {"worker", "fetch"},
    "imagestore": PURE | {"native", "store", "erofs", "verity", "mount"},
    "service": PARTS | {"config", "mount", "fetch", "lazy", "worker", "imagestore", "doctor"},
    "doctor": PURE | {"config", "native", "registry", "store", "mount"},
    "setup": PURE | {"config", "doctor", "native", "registry", "store"},
    "fuse": PURE | {"native", "mount", "fetch", "store", "imagestore", "service"},
    "keeper": PURE | {"native", "mount"},
    "control": PURE | {"config", "fetch", "native", "registry", "store", "service"},
    "mirror": PURE | {"native", "registry", "store", "worker", "service"},
    "metrics": PURE | {"native", "service"},
}
"""Per part, the parts it may import beside itself."""

KNOW_ALL = {"cli", "__main__"}
"""Where everything is put together."""


def part_of(module: str) -> str:
    """``als.formats.tar.pax`` -> ``formats``; ``als`` itself -> nothing."""
    return [*module.split("."), ""][1]


def is_part(name: str) -> bool:
    """Whether ``from als import name`` names a module (and not the version, say)."""
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()


def imports_of(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every als module that the file imports, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names if is_part(alias.name)] if module == "als" else [module]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name == "als" or name.startswith("als."))


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_keep_the_direction(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    part = relative.parts[0].removesuffix(".py")
    if part in KNOW_ALL:
        allowed = None
    else:
        assert part in MAY_IMPORT, f"als/{part} has no place in the import rule: see MAY_IMPORT in {Path(__file__).name}"
        allowed = MAY_IMPORT[part] | {part}
    package = ".".join(("als", *relative.parts[:-1]))
    for line, name in imports_of(path, package):
        target = part_of(name)
        if allowed is not None:
            assert target in allowed, f"als/{relative}:{line} imports {name}, which the import rule forbids to als/{part}"


def test_errno_lives_at_the_edges() -> None:
    """errno is a matter of the kernel's faces and of the thin layer of system calls."""
    offenders = [
        f"als/{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in modules()
        if path.relative_to(PACKAGE).parts[0] not in {"fuse", "native"}
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Import) and any(alias.name == "errno" for alias in node.names)
    ]
    assert not offenders, f"errno imported outside als/fuse and als/native: {offenders}"


def test_the_rule_has_no_cycle() -> None:
    order: list[str] = []
    pending = dict(MAY_IMPORT)
    while pending:
        free = [part for part, needs in pending.items() if needs & set(MAY_IMPORT) <= set(order)]
        assert free, f"cycle among {sorted(pending)}"
        order.extend(free)
        for part in free:
            del pending[part]
