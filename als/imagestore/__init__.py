"""The additional image store face: our layers as a read-only containers/storage tree of plain files.

A client finds a layer there under its chain ID (``overlay-layers/layers.json``) and mounts it without asking us. The tree's
format is that of go.podman.io/storage (``layers.go``, ``drivers/overlay/overlay.go``, ``lockfile.go``):

- :mod:`als.imagestore.records`: the entries of layers.json, pure data;
- :mod:`als.imagestore.lock`: the locks that clients take and the signal that makes them read again;
- :mod:`als.imagestore.diffn`: the tree for podman 4: ``diff`` a mounted EROFS image, ``diff1`` the forest;
- :mod:`als.imagestore.tarsplit`: tar-split, which ``podman save`` and ``push`` read.
"""
