"""From where an image is to what the store holds: sources of manifests and blobs, and the making of a layer."""
