"""The additional image store face: our layers as a read-only containers/storage tree of plain files.

A client finds a layer there under its chain ID (``overlay-layers/layers.json``) and mounts it without asking us. The tree's
format is that of go.podman.io/storage (``layers.go``, ``drivers/overlay/overlay.go``, ``lockfile.go``):

- :mod:`als.imagestore.records`: the entries of layers.json, pure data;
- :mod:`als.imagestore.lock`: the locks that clients take and the signal that makes them read again;
- :mod:`als.imagestore.tree`: what both layouts have in common;
- :mod:`als.imagestore.diffn`: the one for podman 4: ``diff`` a mounted EROFS image, ``diff1`` the forest;
- :mod:`als.imagestore.composefs`: the one for podman 5 and later and CRI-O: the client mounts the EROFS image itself;
- :mod:`als.imagestore.appearance`: how layers come into sight, folder and list at once;
- :mod:`als.imagestore.images`: images.json; :mod:`als.imagestore.policy`: which images may be in it;
- :mod:`als.imagestore.tarsplit`: tar-split, which ``podman save`` and ``push`` read, made while it is read;
- :mod:`als.imagestore.disk_tarsplit`: the ordinary kind, on disk, for either layout;
- :mod:`als.imagestore.policy`: whether an image may be listed, by policy.json.
"""
