"""The footnotes of docs/compatibility.md. Each is asserted by the tests that name it."""

from __future__ import annotations

NOTES = {
    "no-system-check": "podman 4 has no such command.",
    "id-by-toc": (
        "The image ID is not the config's digest but made of the tables of contents as well, as containers/image does for "
        "layers that it identified by them; digest, names, size and DiffIDs are the same."
    ),
    "df-twice": (
        "podman 5.8, unlike 5.4, adds up all layers of all its stores. Such layers are listed twice in the image store, once "
        "by DiffID and once by table of contents, so the sum of `Images` has them twice; on disk they are there once."
    ),
    "userns-4": (
        "Refused: podman 4 mounts an idmapped view of the folder that holds the layers, in which neither the layers' mounts "
        "nor their forests are, so the container does not start (`no such file or directory`), and nothing is copied. "
        "`podman --root DIR` does without additional stores: it pulls the image once more and runs it with the mapping."
    ),
}
