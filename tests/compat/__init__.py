"""Each client, each kind of image, each operation: what works, and what happens instead (docs/compatibility.md)."""
