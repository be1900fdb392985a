"""Building the RPM, and asking rpm about it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.harness.system import run

ROOT = Path(__file__).parents[2]
_DEADLINE = 300.0


@dataclass(frozen=True)
class Built:
    """What a build left."""

    rpm: Path
    source_rpm: Path

    def query(self, *arguments: str) -> str:
        return run("rpm", "-q", "-p", *arguments, self.rpm).stdout.decode()

    def files(self, *arguments: str) -> set[str]:
        return set(self.query("-l", *arguments).splitlines())

    def unpack(self, folder: Path) -> None:
        with subprocess.Popen(["rpm2cpio", self.rpm], stdout=subprocess.PIPE) as archive:
            command = ["cpio", "--quiet", "-idm", "--no-absolute-filenames"]
            subprocess.run(command, cwd=folder, stdin=archive.stdout, check=True, timeout=_DEADLINE)
        assert archive.returncode == 0


def build(folder: Path, *, release: int = 1) -> Built:
    """The packages of the working tree.

    :param release: of the package; a higher one is an upgrade.
    """
    environment = {"WORKTREE": "1", "RELEASE": str(release), "PYTHON": sys.executable}
    run("bash", ROOT / "packaging" / "build.sh", folder, env=environment, deadline=_DEADLINE)
    (source,) = folder.glob("*.src.rpm")
    (binary,) = set(folder.glob("*.rpm")) - {source}
    return Built(binary, source)
