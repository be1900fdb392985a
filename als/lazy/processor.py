"""Which glibc-hwcaps folders this machine's processor can use: a loader takes libraries from these first."""

from __future__ import annotations

_LEVELS = (
    (b"x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
    (b"x86-64-v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"),
    (b"x86-64-v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
)
"""The names of the x86-64 psABI's levels, and what each demands beside the next one, as Linux calls it."""


def hwcaps_levels(cpuinfo: str) -> tuple[bytes, ...]:
    """The folders' names, the best first, from the text of /proc/cpuinfo. Of processors other than x86-64: none."""
    line = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    flags = set(line.partition(":")[2].split())
    found: list[bytes] = []
    for name, demanded in reversed(_LEVELS):
        if not flags.issuperset(demanded.split()):
            break
        found.insert(0, name)
    return tuple(found)
