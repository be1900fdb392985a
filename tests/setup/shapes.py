"""storage.conf in the shapes that distributions and administrators give it."""

from __future__ import annotations

from als.setup.clients import Wanted

WANTED = Wanted("/var/lib/als/store:ref", "/var/lib/als/is4", ("/var/lib/als/image-store",), 0, False)
WANTED5 = Wanted("/var/lib/als/store:ref", "/var/lib/als/image-store", ("/var/lib/als/is4",), 4780, False)

FEDORA = """\
# Storage configuration, see containers-storage.conf(5)
[storage]

# Default storage driver, must be set for proper operation.
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
# rootless_storage_path = "$HOME/.local/share/containers/storage"

[storage.options]
# Additional read-only image stores, one a line.
additionalimagestores = [
"/usr/lib/containers/storage",
]

# pull_options are used when pulling
pull_options = {enable_partial_images = "true", use_hard_links = "false", ostree_repos=""}

# remap-uids = "0:1668442479:65536"

[storage.options.overlay]
# mount_program = "/usr/bin/fuse-overlayfs"

# mountopt specifies comma separated list of extra mount options
mountopt = "nodev,metacopy=on"

[storage.options.thinpool]
# autoextend_percent = "20"
"""

UPSTREAM = FEDORA.replace('"/usr/lib/containers/storage",\n', "").replace(",metacopy=on", "")

LEGACY = """\
[storage]
driver = "overlay"
runroot = "/run/c"
graphroot = "/srv/c"
[storage.options]
size = ""
mountopt = "nodev"   # as it was in 2019
"""

SUBTABLE_FIRST = """\
[storage.options.overlay]
mountopt = 'nodev,fsync=0'
[storage]
driver = "overlay"
"""

INLINE = 'storage = {driver = "overlay", options = {additionalimagestores = ["/a"], overlay = {mountopt = "nodev"}}}\n'

DOTTED = """\
[storage]
driver = "overlay"
options.additionalimagestores = [ "/a", "/b" ] # two
options.overlay.mountopt = "nodev"
"""

SHAPES = {
    "fedora": FEDORA,
    "upstream": UPSTREAM,
    "legacy": LEGACY,
    "subtable first": SUBTABLE_FIRST,
    "inline": INLINE,
    "dotted": DOTTED,
    "crlf": FEDORA.replace("\n", "\r\n"),
    "no last newline": LEGACY.rstrip("\n"),
    "empty": "",
    "comments only": "# nothing\n\n# at all\n",
    "other stores": """\
[storage]
driver="overlay"
[storage.options]
additionallayerstores=["/var/lib/stargz-store/store:ref"]
""",
}
