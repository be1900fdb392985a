"""A package's life on a machine with systemd and podman 5.4 (:class:`tests.harness.vm.FullVM`): steps that are told one by one.

The steps are functions of ``machine_steps.sh``; each runs in a bash that ends at the first command that fails, with its
commands in its output. After a step that failed the machine is switched off: what would follow rests upon it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.harness.images import runnable_base
from tests.harness.ocilayout import LayerBlob, Layout, TarBuilder
from tests.harness.registry import RegistryServer
from tests.harness.vm import FullVM, VMFailed
from tests.lazily.images import layer, runnable
from tests.lazy.site import noise
from tests.packaging.package import build

STEPS = Path(__file__).with_name("machine_steps.sh")
_FIRST = ("install", "switch_on", "run", "start_readers", "upgrade", "kill_it")
BOOTS: tuple[tuple[str, ...], ...] = (_FIRST,)
if os.environ.get("ALS_ALL_POINTS"):
    _LONG = ("restart", "watchdog", "journal", "before_the_reboot")
    BOOTS = ((*_FIRST, *_LONG), ("reboot", "lazy_after_the_reboot", "given_up", "remove"))
"""What is done at each boot. Other ways to another daemon than an upgrade and a kill, and the second boot with what leads to
it, take minutes more and belong to `make soak`."""
_LAZY_FILES = 600
"""More than are read before the reboot, and too large to come all at once: there are always some that are not here."""
_DEADLINE = 900.0
_READER = """\
# reader.sh FOLDER REPORT: reads the files below FOLDER for ever; their names say what has to be in them.
while :; do
  for file in "$1"/*; do
    if sum=$(sha256sum <"$file") && [ "${sum%%  *}" = "${file##*-}" ]; then
      echo "right $file" >>"$2"
    else
      echo "WRONG $file: $sum" >>"$2"
    fi
    usleep 300000
  done
done
"""
_RUN = """\
cd /
for step in {steps}; do
  begun=$(date +%s%N)
  bash -c 'set -euo pipefail; . {job}/steps.sh; set -x; '$step >{job}/step-$step.output 2>&1
  status=$?
  echo "$status $(($(date +%s%N) - begun))" >{job}/step-$step.status
  [ $status = 0 ] || break
done
journalctl --no-pager --unit 'als*' --unit podman-restart.service >{job}/journal-{boot}
systemctl --failed --no-legend
"""


@dataclass(frozen=True)
class Step:
    """What became of one."""

    succeeded: bool
    seconds: float
    output: str


def named(files: int, size: int, seed: int) -> dict[str, bytes]:
    """Files whose names end with the sha256 of their content."""
    contents = [noise(size, seed + number) for number in range(files)]
    return {f"{number:04}-{hashlib.sha256(data).hexdigest()}": data for number, data in enumerate(contents)}


class Machine:
    """The machine, before it is run."""

    def __init__(self, vm: FullVM) -> None:
        self.vm = vm
        folder = vm.outside
        packages = vm.folder / "packages"
        for release, name in ((1, "old.rpm"), (2, "new.rpm")):
            (packages / name).mkdir(parents=True)
            shutil.copy(build(packages / name, release=release).rpm, folder / name)
        shutil.copy(STEPS, folder / "steps.sh")
        (folder / "reader.sh").write_text(_READER, "ascii")
        (folder / "files").write_text(f"{_LAZY_FILES}\n", "ascii")
        self._fill_registry()

    def _fill_registry(self) -> None:
        """A registry's storage, and the configuration with which it is served in the machine."""
        folder, layout = self.vm.outside, Layout(self.vm.folder / "oci")
        tar = TarBuilder().directory("srv").file("srv/text", b"plain").directory("srv/d")
        for name, data in named(20, 50_000, 1).items():
            tar.file(f"srv/d/{name}", data)
        layout.add_image("plain", [layout.add_layer(runnable_base()), layout.add_layer(tar.build())])
        samples = [
            runnable("estargz"),
            layer("estargz", {f"d/{n}": each for n, each in named(_LAZY_FILES, 60_000, 2).items()}),
        ]
        layers = []
        for sample in samples:
            digest, size = layout.add_blob(sample.blob)
            found = sample.descriptor
            layers.append(LayerBlob(digest, size, sample.diff_id, found.media_type, dict(found.annotations)))
        layout.add_image("lazy", layers)
        with RegistryServer(folder / "registry") as registry:
            for name in ("plain", "lazy"):
                registry.push(layout.name(name), f"{name}:1")
        settings = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": f"{self.vm.job}/registry/storage"}},
            "http": {"addr": "127.0.0.1:5000"},
        }
        (folder / "registry.yml").write_text(json.dumps(settings), "utf-8")

    def live(self) -> dict[str, Step]:
        """Run all steps, as far as they succeed; those that were not reached are left out.

        :raises VMFailed: the machine itself ended.
        """
        steps: dict[str, Step] = {}
        for boot, names in enumerate(BOOTS):
            script = _RUN.format(steps=" ".join(names), job=self.vm.job, boot=boot)
            trouble: VMFailed | None = None
            try:
                self.vm.run(script, deadline=_DEADLINE)
            except VMFailed as error:
                trouble = error
            found = {name: step for name in names if (step := self._step(name, boot)) is not None}
            steps.update(found)
            if trouble is not None and all(step.succeeded for step in found.values()):
                raise trouble
            if len(found) < len(names) or not all(step.succeeded for step in found.values()):
                break
        return steps

    def _step(self, name: str, boot: int) -> Step | None:
        told, output = (self.vm.outside / f"step-{name}.{kind}" for kind in ("status", "output"))
        if not told.exists():
            return None
        status, took = told.read_text("ascii").split()
        text = output.read_text("utf-8", "replace")
        journal = self.vm.outside / f"journal-{boot}"
        if status != "0" and journal.exists():
            text += f"\nthe journal:\n{journal.read_text('utf-8', 'replace')[-6000:]}"
        return Step(status == "0", int(took) / 1e9, text)
