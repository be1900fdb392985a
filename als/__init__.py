"""An Additional Layer Store for containers/storage: one copy of every file of every image, on disk and in the page cache."""

__version__ = "0.1.0"
