"""One function per parser: any bytes in; it returns, or raises what the parser's documentation says."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from als.config import parse_config as parse_als_toml
from als.doctor.crioconf import parse_crio_conf
from als.doctor.storageconf import parse_storage_conf
from als.erofs.profile import LAYER
from als.erofs.reader import read_image
from als.erofs.writer import write_image
from als.errors import AlsError, BadImage, BadReference, ConfigError, RegistryDenied, RegistryError, StoreDamaged, WorkerError
from als.fetch.assembler import KEPT, Assembler
from als.fetch.splits import Splits
from als.fetch.writeback import Writeback
from als.formats.base import Begin, Payload
from als.formats.codecs import Compression, decompressor, identify
from als.formats.tar.parser import TarParser
from als.fuse import nodes
from als.imagestore.records import format_entries, parse_entries
from als.model.builder import TreeBuilder
from als.model.digest import Digest
from als.model.entry import EntryType
from als.model.forest import forest_path
from als.model.manifest import Index, choose, layer_compression, parse_config, parse_manifest, toc_digest
from als.model.platform import Platform
from als.model.reference import parse_reference
from als.model.tree import Content, Inode, Tree
from als.mount.table import parse_mountinfo
from als.registry.archive import OciArchive
from als.registry.auth import parse_auth
from als.registry.blob import parse_content_range
from als.registry.challenge import parse_challenges
from als.registry.conf import parse_conf
from als.registry.layout import locate, parse_index
from als.registry.retry import parse_retry_after
from als.registry.token import parse_token
from als.setup.clients import Wanted
from als.setup.edits import perform, revert
from als.setup.registriesconf import Hosts, registries_edits
from als.setup.storageconf import storage_edits
from als.store.layers import Staging
from als.store.layout import Layout, TarSplitForm
from als.store.recipe import RecipeWriter, read_recipe
from als.worker.frames import END, RUN, FrameReader, unpack_error
from als.worker.runs import pack_entry, unpack_run
from tests.erofs.trees import describe
from tests.fuzz.aheadtargets import ahead_targets
from tests.fuzz.driver import Target
from tests.fuzz.inputs import DOCUMENT, LIMITS, WHITEOUTS, pieces
from tests.fuzz.lazytargets import lazy_targets
from tests.store.tarsplit_reader import Parts

PLATFORM = Platform("linux", "amd64")
BLOCK = 512


def tar(data: bytes) -> None:
    """Parser, builder, and the image of what they agree on, read back."""
    parser = TarParser(LIMITS)
    builder = TreeBuilder(LIMITS)
    seen = 0

    def events() -> Iterator[object]:
        for piece in pieces(data):
            yield from parser.feed(piece)
        yield from parser.finish()

    for event in events():
        if isinstance(event, Begin):
            has_content = event.entry.type is EntryType.FILE and event.entry.size > 0
            builder.add(event.entry, content=Content.of_sha256(bytes(32)) if has_content else None)
        elif isinstance(event, Payload):
            seen += len(event.data)
    assert seen <= len(data)
    tree = builder.finish()
    image = BytesIO()
    write_image(tree, image, LAYER)
    assert describe(read_image(image.getvalue(), LAYER)) == describe(tree)


def repair_tar(data: bytes) -> bytes:
    """Set the checksum of every block that looks like a header."""
    fixed = bytearray(data)
    for start in range(0, len(fixed) - BLOCK + 1, BLOCK):
        if fixed[start + 257 : start + 262] == b"ustar":
            fixed[start + 148 : start + 156] = b" " * 8
            fixed[start + 148 : start + 156] = b"%06o\0 " % sum(fixed[start : start + BLOCK])
    return bytes(fixed)


def repair_frames(data: bytes) -> bytes:
    """Let each RUN frame say how long it is, as far as the next one can be told from its content; and an END follow."""
    frames = re.split(rb"(?s)R.{3}\0(?=.{3}\0)", data[: 1 << 14])
    return b"".join(struct.pack("<BI", RUN, len(body)) + body for body in frames if body) + struct.pack("<BI", END, 2) + b"{}"


def _decompress(kind: Compression, data: bytes) -> int:
    codec = decompressor(kind, LIMITS)
    size = 0
    for piece in pieces(data):
        for output in codec.feed(piece):
            assert len(output) <= 1 << 20
            size += len(output)
    codec.finish()
    assert size <= LIMITS.layer_bytes
    return size


def gzip(data: bytes) -> None:
    _decompress(Compression.GZIP, data)


def zstd(data: bytes) -> None:
    _decompress(Compression.ZSTD, data)


def plain(data: bytes) -> None:
    identify(data[:4])
    assert _decompress(Compression.NONE, data) == len(data)
    if data.startswith(b"reject"):
        raise BadImage("no parser refuses plain bytes")


def erofs(data: bytes) -> None:
    tree = read_image(data, LAYER)
    sum(1 for _ in tree.walk())


def run(data: bytes) -> None:
    entries, stream = unpack_run(memoryview(data))
    index = b"".join(pack_entry(position, found) for position, found in entries)
    assert unpack_run(memoryview(struct.pack("<I", len(index)) + index + bytes(stream))) == (entries, stream)


def frames(data: bytes) -> None:
    for _, body in frames_of(data):
        bytes(body)


def frames_of(data: bytes) -> Iterator[tuple[int, memoryview]]:
    read_end, write_end = os.pipe()
    try:
        with os.fdopen(write_end, "wb") as out:
            out.write(data[: 1 << 15])
        yield from FrameReader(read_end, lambda: None, kept=KEPT).frames()
    finally:
        os.close(read_end)


def layer(data: bytes) -> None:
    """What the privileged side makes of all that a parse worker may say: every object has the name of its content.

    And where there are tar-split files, clients get the very stream by them.
    """
    with TemporaryDirectory() as folder:
        staging = Staging(Layout(Path(folder)), Path(folder, "staging"))
        with Splits(staging, tuple(TarSplitForm)) as splits:
            writeback = Writeback(staging.path)
            assembler = Assembler(staging.forest, RecipeWriter(BytesIO()), splits, writeback, LIMITS, "layer")
            try:
                for kind, body in frames_of(data):
                    assembler.take(kind, body)
                tree = assembler.finish()
            finally:
                assembler.abandon()
                writeback.close()
            assert assembler.stream_size <= LIMITS.layer_bytes
            splits.finish(dict(tree.walk()))

        def content_of(name: bytes) -> bytes:
            return (staging.path / "diff1" / forest_path(name)).read_bytes()

        for name, (_, size) in tree.contents().items():
            content = content_of(name)
            assert (sha256(content).digest(), len(content)) == (name, size)
        getters = {
            TarSplitForm.IMAGE: lambda name: content_of(object_at(tree, name)),
            TarSplitForm.FOREST: lambda name: (staging.path / "diff" / os.fsdecode(name)).read_bytes(),
        }
        for form, get in getters.items():
            if (made := staging.tar_split(form)).exists():
                assert Digest.of(Parts.read(made.read_bytes()).stream(get)) == assembler.diff_id
        write_image(tree, BytesIO(), LAYER)


def object_at(tree: Tree, path: bytes) -> bytes:
    """The object that a client finds at a path of an image."""
    node = tree.find(path)
    assert isinstance(node, Inode) and node.data is None and node.content is not None
    return node.content.name


def worker_error(data: bytes) -> None:
    error = unpack_error(data)
    assert str(error).isprintable()
    if type(error) is WorkerError:
        raise error


def manifest(data: bytes) -> None:
    parsed = parse_manifest(data, None)
    if isinstance(parsed, Index):
        choose(parsed, PLATFORM)
        return
    for layer in parsed.layers:
        layer_compression(layer.media_type)
        toc_digest(layer)


def config(data: bytes) -> None:
    parse_config(data)


def index(data: bytes) -> None:
    found = parse_index(data, "index", LIMITS)
    for name in ("", "a", "@0", "@99"):
        with suppress(AlsError):
            locate(found, name, "index")


def reference(data: bytes) -> None:
    found = parse_reference(data.decode("utf-8", "surrogateescape"))
    assert parse_reference(str(found)) == found


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")


NAMES = tuple(map(parse_reference, ("registry.example/team/app:1", "busybox", "a.example:5000/x@sha256:" + "0" * 64)))


def registries_conf(data: bytes) -> None:
    conf = parse_conf(text_of(data), "file")
    for name in NAMES:
        with suppress(RegistryDenied):
            conf.endpoints(name)
    conf.merged(conf)
    with suppress(BadReference):
        conf.candidates("short")


def auth(data: bytes) -> None:
    for legacy in (True, False):
        found = parse_auth(data, "file", legacy=legacy)
    for name in ("docker.io/library/busybox", "registry.example/team/app"):
        found.find(name)


def als_toml(data: bytes) -> None:
    parse_als_toml(text_of(data))


def crio_conf(data: bytes) -> None:
    conf = parse_crio_conf(text_of(data), "file")
    assert len(conf.mount_options) + len(conf.image_stores) <= len(data)


def storage_conf(data: bytes) -> None:
    parse_storage_conf(text_of(data), "file")


def setup_storage(data: bytes) -> None:
    """What `als setup` makes of a storage.conf: nothing is left to do afterwards, and it can be taken back."""
    lines = Wanted("/var/lib/als/store:ref", "/var/lib/als/is4", ("/var/lib/als/image-store",), 0, False)
    edits = storage_edits(data, "file", lines, "overlay")
    after = perform(data, edits, "file")
    assert storage_edits(after, "file", lines, "overlay") == []
    revert(after, edits, "file")


def setup_registries(data: bytes) -> None:
    path, drop_in = Path("/etc/containers/registries.conf"), Path("/etc/containers/registries.conf.d/als.conf")
    edits = registries_edits([(path, data)], drop_in, 4780, Hosts(found=("docker.io", "quay.io"))).edits.get(path, ())
    after = perform(data, edits, "file")
    assert path not in registries_edits([(path, after)], drop_in, 4780, Hosts(found=("docker.io", "quay.io"))).edits
    revert(after, edits, "file")


def mountinfo(data: bytes) -> None:
    parse_mountinfo(data)


def archive(data: bytes) -> None:
    """An image in a tar file, which the privileged side reads itself."""
    fd = os.memfd_create("archive")
    try:
        os.write(fd, data)
        found = OciArchive(f"/proc/self/fd/{fd}", LIMITS).manifest("")
        parse_manifest(found.data, found.media_type)
    finally:
        os.close(fd)


def recipe(data: bytes) -> None:
    fd = os.memfd_create("recipe")
    try:
        os.write(fd, data)
        size = 0
        for record in read_recipe(Path(f"/proc/self/fd/{fd}")):
            size += len(record) if isinstance(record, bytes) else 0
            if size > 64 << 20:
                break
    finally:
        os.close(fd)


def layers_json(data: bytes) -> None:
    entries = parse_entries(data, "file")
    assert parse_entries(format_entries(entries), "file") == entries


def http(data: bytes) -> None:
    """What a registry says beside documents: headers, and a token server's answer."""
    text = data.decode("latin-1")
    parse_challenges([text, *text.splitlines()])
    parse_content_range(text)
    assert parse_retry_after(text, datetime.now(UTC)) >= 0
    parse_token(data, "server")


def lookup(data: bytes) -> None:
    """The names that a client of the layer store may come with."""
    text = nodes.parse_reference(data)
    nodes.parse_digest(data)
    if text is None:
        raise BadReference("no name")
    parse_reference(text)


def _targets() -> Iterable[Target]:
    toml = (
        b"[[",
        b"]]",
        b"=",
        b'"',
        b"'''",
        b"[" * 3000,
        b"{a=" * 2000,
        b"\n[[registry]]\n",
        b"true",
        b"1979-05-27",
        b"\\u0000",
    )
    pax = (b"path=", b"size=", b"GNU.sparse.map=", b"SCHILY.xattr.trusted.overlay.", b"12 path=../x\n", b"ustar\000", b"../")
    yield Target("tar", tar, (AlsError,), (*pax, *WHITEOUTS, bytes(BLOCK)), repair_tar)
    yield Target("gzip", gzip, (BadImage,), (b"\x1f\x8b\x08", b"\x03\0"))
    yield Target("zstd", zstd, (BadImage,), (b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"))
    yield Target("plain", plain, (BadImage,))
    yield from lazy_targets()
    yield from ahead_targets()
    yield Target("erofs", erofs, (StoreDamaged,))
    yield Target("run", run, (WorkerError,))
    yield Target("frames", frames, (AlsError,), (b"E", b"Z", b"R\0\0\0\0"))
    yield Target("layer", layer, (AlsError,), (b"Z\2\0\0\0{}", *WHITEOUTS), repair_frames)
    yield Target("worker-error", worker_error, (WorkerError,), DOCUMENT)
    yield Target("manifest", manifest, (AlsError,), DOCUMENT)
    yield Target("config", config, (BadImage,), DOCUMENT)
    yield Target("index", index, (AlsError,), DOCUMENT)
    yield Target("reference", reference, (BadReference,), (b"@sha256:", b":", b"/", b"oci:", b"[::1]", b"..", b"docker.io/"))
    yield Target("registries-conf", registries_conf, (ConfigError,), toml)
    yield Target("auth", auth, (ConfigError,), (*DOCUMENT, b"Og==", b"identitytoken"))
    yield Target("als-toml", als_toml, (ConfigError,), toml)
    yield Target("crio-conf", crio_conf, (ConfigError,), toml)
    yield Target("storage-conf", storage_conf, (ConfigError,), toml)
    yield Target("setup-storage", setup_storage, (ConfigError,), (*toml, b"additionalimagestores", b"overlay", b"mountopt"))
    yield Target("setup-registries", setup_registries, (ConfigError,), (*toml, b"docker.io", b"mirror", b"location"))
    yield Target("mountinfo", mountinfo, (ValueError,), (b" - ", b"\\040", b"\\777", b"\n", b"0:0"))
    yield Target("archive", archive, (AlsError,), (*pax, *DOCUMENT, bytes(BLOCK)), repair_tar)
    yield Target("recipe", recipe, (StoreDamaged,), (b"ALSRCP1\n", b"\x28\xb5\x2f\xfd"))
    yield Target("layers-json", layers_json, (StoreDamaged,), DOCUMENT)
    yield Target("http", http, (RegistryError,), (*DOCUMENT, b"Bearer realm=", b"bytes 0-1/2", b",", b'="'))
    yield Target("lookup", lookup, (BadReference,), (b"=", b"\n", b"sha256:", b"/"))


TARGETS = {target.name: target for target in _targets()}
