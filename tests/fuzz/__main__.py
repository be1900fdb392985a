"""``python -m tests.fuzz``: as long and as often as one likes."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from tests.fuzz.driver import Broken, Fuzzer
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="may be given several times; default: all")
    parser.add_argument("--input", type=Path, help="run this one file instead, in this process")
    options = parser.parse_args()
    chosen = options.target or sorted(TARGETS)
    if options.input is not None:
        TARGETS[chosen[0]].run(options.input.read_bytes())
        return 0
    print(f"seed {options.seed}", flush=True)
    broken = 0
    for name in chosen:
        try:
            outcome = Fuzzer(TARGETS[name], options.seed).run(options.cases)
        except Broken as error:
            print(error, flush=True)
            broken += 1
            continue
        print(f"{name:<16} {outcome.cases} cases, {outcome.refused} refused, {outcome.seconds:.1f} s", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
