"""Layers that are shown before their bytes are here, and how the bytes come."""
