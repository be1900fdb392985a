"""Platforms, and the choice of an image for one out of an index.

The order of preference is containers/image's (``internal/pkg/platform/platform_matcher.go`` and
``internal/manifest/oci_index.go``): als has to come to the same layers as the client that asks for them. What platform
this machine is, :func:`als.registry.host.host_platform` finds out.
"""

from __future__ import annotations

from dataclasses import dataclass

_VARIANTS = {"arm": ("v8", "v7", "v6", "v5"), "arm64": ("v8",)}
"""The known variants of an architecture, the most capable first; each runs what those after it run."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image was built for, in Go's words (``linux``, ``amd64``, ``arm``); `variant` is often empty."""

    os: str
    architecture: str
    variant: str = ""

    def compatible(self) -> tuple[Platform, ...]:
        """The platforms whose images run here, the best first."""
        known = _VARIANTS.get(self.architecture, ())
        if not self.variant:
            variants: tuple[str, ...] = ("", *known)
        elif self.variant in known:
            variants = (*known[known.index(self.variant) :], "")
        else:
            variants = (self.variant, "")
        return tuple(Platform(self.os, self.architecture, variant) for variant in variants)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))
