"""Mounts: the kernel's table of them, EROFS images, and what this kernel can do at all."""
