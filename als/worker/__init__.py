"""The processes without privileges that talk to networks and read what strangers wrote.

::

    als (root) --spawn--> zygote --fork--> fetch worker   network, credentials of one image, no files
               |                 --fork--> parse worker   no network, no files: compressed bytes in, events out
               |                 --fork--> inflate worker the same, for units of lazy layers, one after the other
               |                 --fork--> seal worker    the same, for the tar-split and headers of one lazy layer
               <---- frames (als.worker.frames) ----

The zygote is a fresh process with all modules loaded, so a worker costs a fork, not a start of Python. It never reads
anything but its own parent's requests; each worker is forked for one layer (parse) or one image (fetch) and ends with it,
so whoever takes over a worker owns a process that sees one image only. Inflate workers alone are shared: one that was taken
over sees what passes, without a way out, and what it falsifies fails its digest; where no digest covers it, a fresh one
decides (als.lazy.complete). Everything a worker hands over is hashed by the privileged side before it is believed: blob,
stream (DiffID) and every object. See docs/security.md.
"""
