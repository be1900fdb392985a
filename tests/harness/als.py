"""The daemon under test, started as a user would, with a store and a run folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.harness.system import Completed, loops_below, mounts, run, stop_process, unmount_below, wait_until


class AlsDaemon:
    """``als serve`` on ROOT = base/a, RUN = base/run; a context manager that starts it and leaves nothing mounted.

    The names are short on purpose: with podman 4 an image's lower directories must fit into one page (design of overlay).

    :param mirror_port: of its registry mirror; 0: it has none. Never the default port, which other daemons may have.
    :param settings: others of its configuration file, by name.
    :param keep: start it as ``als serve --keep``.
    :param root: another ROOT.
    """

    def __init__(
        self,
        base: Path,
        environment: Mapping[str, str] | None = None,
        mirror_port: int = 0,
        settings: Mapping[str, object] | None = None,
        *,
        keep: bool = False,
        root: Path | None = None,
    ) -> None:
        self.keep = keep
        self.root = root or base / "a"
        self.run = base / "run"
        self.log = base / "als.log"
        self.store = self.root / "store"
        self.environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        for folder in (base, self.root, self.run):
            folder.mkdir(parents=True, exist_ok=True)
        self._configuration = base / "als.toml"
        self._settings: dict[str, object] = {"mirror_port": mirror_port}
        self.configure(**(settings or {}))

    def configure(self, **settings: object) -> None:
        """Change its configuration file, for the next start and for commands from now on."""
        self._settings |= settings
        # JSON's numbers, booleans, strings and lists are TOML's as well.
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in self._settings.items())
        self._configuration.write_text("".join(lines), "ascii")

    @property
    def layer_store(self) -> str:
        """The value for additionallayerstores."""
        return f"{self.store}:ref"

    @property
    def image_store(self) -> Path:
        """The additional image store in the layout for podman 4.x."""
        return self.root / "is4"

    @property
    def composefs_store(self) -> Path:
        """The one in the layout for podman 5 and later and CRI-O."""
        return self.root / "image-store"

    @property
    def pid(self) -> int:
        """The process that was started, which is the daemon or its keeper; it must be running."""
        assert self._process is not None
        return self._process.pid

    @property
    def serving_pid(self) -> int:
        """The process that serves; 0: none did ever."""
        return self._announced()

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line of ``als ARGUMENTS`` with this daemon's folders and settings."""
        where = ["--config", str(self._configuration), "--root", str(self.root), "--run", str(self.run)]
        return [sys.executable, "-m", "als", *where, *(str(argument) for argument in arguments)]

    def cli(self, *arguments: str | Path, status: int | None = 0, deadline: float = 300) -> Completed:
        """``als --root --run ARGUMENTS``, run to its end."""
        return run(*self.command(*arguments), env=self.environment, status=status, deadline=deadline)

    def json(self, *arguments: str | Path) -> Any:
        """``als ... --json`` of a command that prints one document."""
        return json.loads(self.cli(*arguments, "--json").stdout)

    def files(self, image: str, *options: str) -> list[dict[str, Any]]:
        """``als files IMAGE --json``: one object a line."""
        return [json.loads(line) for line in self.cli("files", image, *options, "--json").stdout.splitlines()]

    def object_path(self, sha256: str) -> Path:
        """Where the store keeps the object with this content."""
        return self.root / "objects" / sha256[:2] / sha256[2:]

    def links(self, stored: Path) -> list[Path]:
        """The names that an object has in layers: hardlinks, found by inode number."""
        status = stored.stat()
        candidates = (Path(folder, name) for folder, _, names in os.walk(self.root / "layers") for name in names)
        return sorted(path for path in candidates if (s := path.lstat()).st_ino == status.st_ino and s.st_dev == status.st_dev)

    def serving(self) -> bool:
        """Whether ROOT/store is a FUSE mount that answers; statfs always goes to the daemon, where a stat may be cached."""
        if not any(mount.point == self.store.resolve() and mount.fstype.startswith("fuse") for mount in mounts()):
            return False
        try:
            os.statvfs(self.store)
        except OSError:
            return False
        return True

    def _announced(self) -> int:
        """The process ID that the last daemon wrote down when it was ready; 0: none."""
        path = self.run / "als.pid"
        return int(path.read_text("ascii")) if path.exists() else 0

    def start(self, deadline: float = 180) -> None:
        """Start the daemon and wait until it answers.

        :raises RuntimeError: it ended instead; the end of its log is in the message.
        :raises TimeoutError: it does not answer within `deadline` seconds.
        """
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command("serve", *(["--keep"] if self.keep else [])),
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = self._process

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"als serve ended with {process.returncode}:\n{self.log_text()[-4000:]}")
            announced = self._announced()
            ours = _parent_of(announced) == process.pid if self.keep else announced == process.pid
            return ours and self.serving()

        wait_until(answers, f"als serve (log: {self.log})", deadline)

    def replaced(self, former: int, deadline: float = 60) -> None:
        """Wait until another process serves than this one."""
        wait_until(lambda: self._announced() not in (0, former), f"the next daemon serves (log: {self.log})", deadline)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the daemon, which unmounts ROOT/store itself; mounts of layers stay. Returns its exit status."""
        assert self._process is not None
        status = stop_process(self._process, first=how)
        self._process = None
        return status

    def log_text(self) -> str:
        """What it wrote to standard error so far."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def close(self) -> None:
        """Stop it if it runs, and unmount all there is at and below ROOT."""
        if self._process is not None:
            self.stop()
        unmount_below(self.root, self.run)
        end = time.monotonic() + 10
        while loops := loops_below(self.root):
            run("losetup", "-d", *loops, status=None)
            if time.monotonic() > end:
                raise TimeoutError(f"loop devices stay busy: {loops}")

    def __enter__(self) -> AlsDaemon:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parent_of(process: int) -> int:
    """The process that has started another; 0: there is no such process."""
    try:
        status = Path(f"/proc/{process}/status").read_text("ascii")
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
