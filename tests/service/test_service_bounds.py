"""What does not depend on how a pull is carried out, and what it may cost."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import IO

from als.config import Config
from als.model.reference import parse_reference
from als.service import Service
from tests.harness.als import AlsDaemon
from tests.harness.memory import PeakMemory
from tests.harness.ocilayout import Layout, TarBuilder
from tests.harness.system import unmount_below

MIB = 1 << 20


def made(config: Config, image: str) -> dict[str, bytes]:
    """Everything that a pull wrote about the image's layers, and the names of the objects."""
    try:
        with Service(config) as service:
            service.pull(parse_reference(image))
        found = {
            str(path.relative_to(config.root)): path.read_bytes()
            for name in ("layer.erofs", "recipe")
            for path in config.root.glob(f"layers/*/{name}")
        }
        return found | {str(path.relative_to(config.root)): path.read_bytes() for path in config.root.glob("objects/*/*")}
    finally:
        unmount_below(config.root)


def test_layers_side_by_side_come_out_as_one_after_the_other(tmp_path: Path, layout: Layout, as_root: None) -> None:
    layers = []
    for layer in range(5):
        tar = TarBuilder()
        for number in range(200):
            tar.file(f"d{layer}/{number}", b"%d" % (number * layer) * 50)
        tar.file(f"large{layer}", bytes([layer]) * (2 * MIB))
        layers.append(layout.add_layer(tar.build()))
    layout.add_image("five", layers)
    results = [
        made(
            Config(root=tmp_path / f"root{parallel}", run=tmp_path / "run", worker_user="65534", max_workers=parallel),
            layout.name("five"),
        )
        for parallel in (1, 4)
    ]
    assert results[0] == results[1]
    assert len([name for name in results[0] if name.startswith("layers/")]) == 10


def test_a_large_layer_takes_little_memory(tmp_path: Path, layout: Layout, as_root: None) -> None:
    """All processes together; 300 MB of content in one file, in medium ones and in many small ones."""

    def write(out: IO[bytes]) -> None:
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for path, size in [
                *((f"small/{n}", 1000 + n) for n in range(2000)),
                *((f"{n}", MIB) for n in range(60)),
                ("l", 240 * MIB),
            ]:
                info = tarfile.TarInfo(path)
                info.size = size
                with Path("/dev/zero").open("rb") as zeros:
                    tar.addfile(info, zeros)

    layout.add_image("large", [layout.add_layer(write)])
    als = AlsDaemon(tmp_path / "a")
    try:
        with PeakMemory() as peak:
            als.cli("pull", "-q", layout.name("large"))
    finally:
        als.close()
    assert 20 * MIB < peak.bytes < 200 * MIB
