"""Types of the extension that cffi_build/crc64.py builds; only als.native may import it."""

class _Bytes:
    def __len__(self) -> int: ...

class _Lib:
    def als_crc64(self, before: int, data: _Bytes, length: int) -> int: ...

class _FFI:
    def from_buffer(self, data: bytes | bytearray | memoryview) -> _Bytes: ...

lib: _Lib
ffi: _FFI
