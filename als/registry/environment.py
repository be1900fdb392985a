"""What a process knows of its surroundings, as a value, so that nothing reads the real ones behind its caller's back."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Environment:
    """Environment variables, the user, and where the file system with the system's configuration starts."""

    variables: Mapping[str, str]
    home: Path
    uid: int
    root: Path = field(default=Path("/"))

    @classmethod
    def current(cls) -> Environment:
        """That of this process."""
        return cls.of(os.environ, os.geteuid())

    @classmethod
    def of(cls, variables: Mapping[str, str], uid: int) -> Environment:
        """That of a process with these; the home directory falls back to the user database, as services have no ``HOME``."""
        home = variables.get("HOME")
        if not home:
            try:
                home = pwd.getpwuid(uid).pw_dir
            except KeyError:
                home = "/"
        return cls(dict(variables), Path(home), uid)

    def get(self, name: str) -> str:
        """A variable's value; empty where it is not set."""
        return self.variables.get(name, "")

    def system(self, path: str) -> Path:
        """An absolute path of the system, below `root`."""
        return self.root / path.lstrip("/")
