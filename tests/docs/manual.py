"""packaging/dev/man.py as a module: it is a program that packages run, and part of no package itself."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCRIPT = Path(__file__).parents[2] / "packaging" / "dev" / "man.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("als_man", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
