"""fs-verity: what is sealed and believed (:mod:`als.verity.policy`), digests in user space (:mod:`als.verity.library`)."""
