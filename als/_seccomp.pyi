"""Types of the extension that cffi_build/seccomp.py builds; only als.native may import it."""

class _Lib:
    ALS_AUDIT_ARCH: int
    ALS_CLONE_FLAGS: int
    ALS_CLONE_NAMESPACES: int
    ALS_CLONE_THREAD: int
    ALS_LAST_KNOWN: int
    def als_syscall(self, name: bytes) -> int: ...
    def als_seccomp_filter(self, program: bytes, length: int) -> int: ...

class _FFI:
    errno: int

lib: _Lib
ffi: _FFI
