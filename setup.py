"""Only what pyproject.toml cannot say: which C extensions cffi builds (see cffi_build/)."""

from setuptools import setup

setup(
    cffi_modules=[
        "cffi_build/kernel.py:ffibuilder",
        "cffi_build/fsverity.py:ffibuilder",
        "cffi_build/seccomp.py:ffibuilder",
        "cffi_build/crc64.py:ffibuilder",
    ]
)
