"""Interleaved measurements of two ways to do the same, and how they are shown."""

from __future__ import annotations

import compileall
import json
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import als
from tests.harness.system import mounts, run

Measure = Callable[[], float]


@dataclass(frozen=True)
class Comparison:
    """Seconds of either way, in the order in which they were taken: one of ours, one of the other, and so on."""

    name: str
    ours: tuple[float, ...]
    plain: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Of each pair, which ran one right after the other, so that both saw the same state of the machine."""
        return [ours / plain for ours, plain in zip(self.ours, self.plain, strict=True)]

    def summary(self) -> dict[str, float]:
        """Medians, and the quartiles of the ratio."""
        low, middle, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return {
            "ours": statistics.median(self.ours),
            "plain": statistics.median(self.plain),
            "ratio": middle,
            "ratio_low": low,
            "ratio_high": high,
        }


def compare(name: str, ours: Measure, plain: Measure, rounds: int) -> Comparison:
    """Measure A B, B A, A B ... after one unmeasured round, so that neither profits from coming second."""
    ours(), plain()
    pairs = []
    for number in range(rounds):
        if number % 2:
            second = plain()
            pairs.append((ours(), second))
        else:
            first = ours()
            pairs.append((first, plain()))
    return Comparison(name, tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))


def as_installed() -> None:
    """Compile als's modules, as pip does when it installs them. A checkout has them compiled by the first process that imports
    them, unless the environment forbids it (PYTHONDONTWRITEBYTECODE): then every single process would compile them all."""
    compileall.compile_dir(Path(als.__file__).parent, quiet=1)


def machine(folder: Path) -> dict[str, str]:
    """What the numbers depend on."""
    under = max((m for m in mounts() if folder.resolve().is_relative_to(m.point)), key=lambda m: len(m.point.parts))
    return {
        "kernel": platform.release(),
        "cpus": str(len(Path("/proc/cpuinfo").read_text("utf-8").split("processor\t")) - 1),
        "podman": run("podman", "--version").stdout.decode().split()[-1],
        "file_system": under.fstype,
        "python": platform.python_version(),
    }


def table(comparisons: Sequence[Comparison], ours: str = "als", plain: str = "plain overlay", digits: int = 2) -> str:
    """Medians in seconds; the ratio's median with its quartiles.

    :param digits: of the ratio.
    """
    lines = [f"{'':32}{ours:>10}{plain:>16}   ratio (quartiles)"]
    for comparison in comparisons:
        s = comparison.summary()
        spread = f"{s['ratio']:.{digits}f} ({s['ratio_low']:.{digits}f}-{s['ratio_high']:.{digits}f})"
        lines.append(f"{comparison.name:<32}{s['ours']:>8.3f} s{s['plain']:>14.3f} s   {spread}")
    return "\n".join(lines)


def write_json(path: Path, comparisons: Sequence[Comparison], environment: dict[str, str]) -> None:
    """Every single measurement, so that others can compute what they like."""
    write_figures(path, [{**asdict(comparison), "summary": comparison.summary()} for comparison in comparisons], environment)


def write_figures(path: Path, results: Sequence[Mapping[str, object]], environment: dict[str, str]) -> None:
    """Results of any form, and what they depend on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": environment, "results": list(results)}, indent=2) + "\n", "utf-8")
