"""The system calls Python's standard library lacks, typed.

The thin syscall layer: functions here decide nothing, release the GIL while in the kernel, and raise :class:`OSError`
with the kernel's errno. Who calls them turns that into an error of :mod:`als.errors` where it knows what it means.
"""
