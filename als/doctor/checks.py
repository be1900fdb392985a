"""The judgement: from facts to findings. Pure; the order of the findings is that in which one would set things right."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from als.doctor.facts import Answer, CrioFacts, Facts, KernelFacts, MirrorFacts, PodmanFacts, StoreFacts
from als.doctor.mirrorconf import some
from als.doctor.storageconf import StorageConf
from als.mount.features import Feature

_MIB = 1 << 20
_FREE_WARN = 2048 * _MIB
_FREE_ERROR = 64 * _MIB
_SETUP = "`als setup --apply`"


class Level(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """als works, but something is lost: speed, space, protection."""
    ERROR = "error"
    """Something does not work, or gives wrong results."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    subject: str
    what: str
    remedy: str = ""


def diagnose(facts: Facts) -> tuple[Finding, ...]:
    """Everything there is to say."""
    return tuple(_findings(facts))


def worst(findings: Iterable[Finding]) -> Level:
    """The level of the worst finding."""
    levels = {finding.level for finding in findings}
    return next((level for level in (Level.ERROR, Level.WARN) if level in levels), Level.OK)


def _findings(facts: Facts) -> Iterator[Finding]:
    if not facts.superuser:
        yield Finding(
            Level.ERROR, "user", "not root: mounts cannot be made, and some answers below are guesses", "run it by sudo"
        )
    yield from _kernel(facts.kernel, facts.podman.version, sealed=facts.store.sealed)
    yield from _store(facts.store, facts.podman)
    yield from _podman(facts.podman)
    if facts.superuser:
        yield from _storage_conf(facts.podman, facts.store)
    yield from _rootless(facts.podman.rootless, superuser=facts.superuser)
    yield from _mirror(facts.mirror, facts.podman.version)
    yield from _crio(facts.crio, facts.store)


def _kernel(kernel: KernelFacts, podman: tuple[int, ...] | None, *, sealed: bool) -> Iterator[Finding]:
    yield _feature(kernel.erofs, Level.ERROR)
    yield _feature(kernel.metacopy, Level.ERROR)
    yield _feature(kernel.fuse, Level.ERROR)
    from_files = kernel.erofs_from_files
    yield _feature(from_files, Level.WARN if kernel.loop_devices.ok else Level.ERROR)
    if not from_files.ok:
        yield _feature(kernel.loop_devices, Level.ERROR)
    if podman is not None and podman[0] >= 5:
        yield _feature(kernel.data_only_lowers, Level.WARN)
    yield _feature(kernel.fuse_resend, Level.WARN)
    yield _feature(kernel.verity, Level.ERROR if sealed else Level.WARN)
    yield _feature(kernel.reflinks, Level.WARN)
    yield _feature(kernel.cgroup2, Level.WARN)


def _feature(feature: Feature, absent: Level) -> Finding:
    return Finding(Level.OK if feature.ok else absent, feature.name, feature.detail, "" if feature.ok else feature.remedy)


def _store(store: StoreFacts, podman: PodmanFacts) -> Iterator[Finding]:
    yield _layer_store(store)
    old = podman.version is None or podman.version < (5,)
    named = [_clean(path) for path in podman.storage.image_stores] if podman.storage else []
    if old or str(store.image_store4) in named:
        yield _image_store(store.image_store4, store.image_store4_answer)
    if not old or str(store.image_store) in named:
        yield _image_store(store.image_store, store.image_store_answer)
    for path in store.opened:
        what = "is open to users, in whose overlays its files read as zeros (docs/security.md)"
        yield Finding(Level.ERROR, str(path), what, f"`chmod go= {path}`; als does it when it starts")
    yield _mounts(store)
    yield _space(store)
    if store.beside_graph_root is False:
        remedy = "put podman's graphroot and als's root on one file system"
        yield Finding(Level.WARN, "graph root", f"on another file system than {store.root}: no reflinks between them", remedy)


def _image_store(path: Path, answer: Answer) -> Finding:
    match answer:
        case Answer.FINE:
            return Finding(Level.OK, str(path), "is there")
        case Answer.MISSING:
            what = "does not exist; a storage.conf that names it makes every podman command fail"
            return Finding(Level.ERROR, str(path), what, f"`mkdir -p {path}`, or `als serve`, which makes it")
        case _:
            return Finding(Level.ERROR, str(path), answer.value, f"look at `ls -ld {path}` and `dmesg`")


def _layer_store(store: StoreFacts) -> Finding:
    path = store.layer_store
    restart = f"`umount -l {path}` and `systemctl restart als`"
    match store.layer_store_answer:
        case Answer.FINE if store.layer_store_mounted:
            return Finding(Level.OK, str(path), "mounted, and answers")
        case Answer.FINE:
            what = "`als serve` is not running: images already here run, new ones are pulled by podman itself"
            return Finding(Level.WARN, str(path), what, "`systemctl start als`")
        case Answer.MISSING:
            what = "does not exist; a storage.conf that names it makes every podman command fail"
            return Finding(Level.ERROR, str(path), what, f"`mkdir -p {path}`, or `als serve`, which makes it")
        case Answer.DEAD:
            return Finding(Level.ERROR, str(path), "a FUSE mount whose daemon died: every podman command fails", restart)
        case Answer.HANGS:
            return Finding(Level.ERROR, str(path), "does not answer: every podman command hangs", restart)
        case Answer.REFUSED:
            return Finding(Level.ERROR, str(path), "refuses to be looked at", f"look at `ls -ld {path}` and `dmesg`")


def _mounts(store: StoreFacts) -> Finding:
    what = f"{store.erofs_mounts} layers mounted; {store.mounts} of at most {store.mounts_limit} mounts in all"
    if store.mounts_limit and store.mounts > 0.8 * store.mounts_limit:
        return Finding(Level.WARN, "mounts", what, "raise it by `sysctl fs.mount-max=...`")
    return Finding(Level.OK, "mounts", what)


def _space(store: StoreFacts) -> Finding:
    what = f"{store.free_bytes // _MIB} MiB of {store.total_bytes // _MIB} MiB free under {store.root}"
    remedy = "free some, or move root to another file system"
    if store.total_inodes and store.free_inodes < store.total_inodes // 20:
        what = f"{store.free_inodes} of {store.total_inodes} inodes free under {store.root}"
        return Finding(Level.WARN if store.free_inodes > 1000 else Level.ERROR, "space", what, remedy)
    if store.free_bytes < _FREE_ERROR:
        return Finding(Level.ERROR, "space", what, remedy)
    if store.free_bytes < _FREE_WARN:
        return Finding(Level.WARN, "space", what, remedy)
    return Finding(Level.OK, "space", what)


def _podman(podman: PodmanFacts) -> Iterator[Finding]:
    if podman.version is None:
        yield Finding(Level.WARN, "podman", podman.problem or "does not tell its version", "`apt-get install podman crun`")
        return
    text = ".".join(map(str, podman.version))
    if podman.version < (4,):
        yield Finding(Level.ERROR, "podman", f"version {text} is older than any that als was tried with", "podman 4.3 or later")
    elif podman.version < (5,) and podman.idmapped:
        what = f"version {text}; with --uidmap or --userns it cannot run images of the store (docs/podman4.md has a way)"
        yield Finding(Level.OK, "podman", what)
    else:
        yield Finding(Level.OK, "podman", f"version {text}")
    if podman.problem:
        remedy = "set right what is called an error here, then ask again"
        yield Finding(Level.ERROR, "podman", podman.problem, remedy)


def _rootless(files: Sequence[Path], *, superuser: bool) -> Iterator[Finding]:
    """What podman of users is told of our stores."""
    for path in files:
        what = (
            "names stores of als, so every command of its owner's podman fails: they are closed to users, in whose overlays "
            "their files would read as zeros (docs/security.md)"
        )
        remedy = "take them out of it; als serves the podman of root"
        yield Finding(Level.WARN if superuser else Level.ERROR, str(path), what, remedy)


def _storage_conf(podman: PodmanFacts, store: StoreFacts) -> Iterator[Finding]:
    if podman.storage_problem:
        yield Finding(Level.ERROR, "storage.conf", podman.storage_problem, "correct the file; containers-storage.conf(5)")
    conf = podman.storage
    if conf is None:
        if not podman.storage_problem:
            yield Finding(Level.ERROR, "storage.conf", "there is none: podman does not know of als", _SETUP)
        return
    if conf.driver != "overlay":
        what = f"the driver is {conf.driver!r}" if conf.driver else "names no driver"
        yield Finding(Level.ERROR, conf.source, what, 'driver = "overlay" under [storage]')
    for what in podman.hiding:
        remedy = "set it for everybody who runs podman, or for nobody"
        yield Finding(Level.WARN, "storage.conf", f"{what} goes before the machine's own file here", remedy)
    yield _names_layer_store(conf, store)
    yield from _names_image_store(conf, store, podman.version)
    yield _metacopy(conf)
    yield from _verity(conf.source, conf.mount_options, store, f'{_SETUP}: mountopt = "nodev,metacopy=on,verity=require"')
    if conf.mount_program:
        what = f"mount_program {conf.mount_program} mounts in place of the kernel, and finds no file's data"
        yield Finding(Level.ERROR, conf.source, what, "remove mount_program")


def _names_layer_store(conf: StorageConf, store: StoreFacts) -> Finding:
    path = str(store.layer_store)
    remedy = f'{_SETUP}: additionallayerstores = ["{path}:ref"] under [storage.options]'
    paths = {_clean(entry.removesuffix(":ref")): entry.endswith(":ref") for entry in conf.layer_stores}
    if path not in paths:
        others = f"; it names {', '.join(paths)}" if paths else ""
        return Finding(Level.ERROR, conf.source, f"additionallayerstores does not name {path}{others}", remedy)
    if not paths[path]:
        return Finding(Level.ERROR, conf.source, f"additionallayerstores names {path} without `:ref`", remedy)
    return Finding(Level.OK, conf.source, f"additionallayerstores names {path} (`podman --root` does not look there)")


def _names_image_store(conf: StorageConf, store: StoreFacts, version: tuple[int, ...] | None) -> Iterator[Finding]:
    old, new = str(store.image_store4), str(store.image_store)
    named = [path for path in (old, new) if path in map(_clean, conf.image_stores)]
    if version is None:
        wanted, other = (named or [new])[0], ""
    else:
        wanted, other = (old, new) if version < (5,) else (new, old)
    if wanted in named:
        yield Finding(Level.OK, conf.source, f"additionalimagestores names {wanted}")
    else:
        lost = "commit, build and diff fail" if wanted == old else "images of the store are not found, or forgotten"
        remedy = f'{_SETUP}: additionalimagestores = ["{wanted}"] under [storage.options]'
        yield Finding(Level.ERROR, conf.source, f"additionalimagestores does not name {wanted}: {lost}", remedy)
    if other in named:
        # podman 4 takes the folder of objects for the layer's files; later ones can run the old layout, but not map its owners.
        level = Level.ERROR if other == new or wanted not in named else Level.WARN
        what = f"additionalimagestores names {other}, whose layout is not made for this podman"
        yield Finding(level, conf.source, what, f"{_SETUP} takes it out")


def _metacopy(conf: StorageConf) -> Finding:
    options = [option for option in conf.mount_options if option.startswith("metacopy=")]
    if options and options[-1] == "metacopy=on":
        return Finding(Level.OK, conf.source, "mountopt has metacopy=on")
    given = ",".join(conf.mount_options) or "(none)"
    what = f"mountopt {given} lacks metacopy=on: files cannot be read, or are committed as zeros"
    remedy = f'{_SETUP}: mountopt = "nodev,metacopy=on" under [storage.options.overlay]'
    return Finding(Level.ERROR, conf.source, what, remedy)


def _verity(source: str, options: Sequence[str], store: StoreFacts, remedy: str) -> Iterator[Finding]:
    """Whether who mounts refuses what is not sealed, if just that is to be served, and only then."""
    refuses = [option for option in options if option.startswith("verity=")][-1:] == ["verity=require"]
    if refuses and not store.sealed:
        what = "mountopt has verity=require, but als serves what is not sealed as well: files of such layers cannot be read"
        yield Finding(Level.ERROR, source, what, 'verity = "require" in als.toml, or mountopt without it (docs/verity.md)')
    elif refuses:
        yield Finding(Level.OK, source, "mountopt has verity=require")
    elif store.sealed:
        what = 'als.toml has verity = "require", but mountopt lacks verity=require: an object that was replaced is served'
        yield Finding(Level.WARN, source, what, remedy)


def _mirror(mirror: MirrorFacts, version: tuple[int, ...] | None) -> Iterator[Finding]:
    # podman 4 asks the layer store for every layer and has no need of it.
    subject = "registries.conf"
    if mirror.problem:
        yield Finding(Level.ERROR, subject, mirror.problem, "correct the file; containers-registries.conf(5)")
    elif not mirror.port or version is None or version < (5,):
        return
    elif mirror.elsewhere:
        what = f"names a mirror of als on another port than {mirror.port} for {some(mirror.elsewhere)}"
        yield Finding(Level.WARN, subject, what, _SETUP)
    elif not mirror.registries:
        what = "names als's mirror for no registry: `podman pull` downloads ordinary images whole"
        yield Finding(Level.WARN, subject, what, f"{_SETUP}, with --registry HOST for each that you pull from")
    elif not mirror.listening:
        what = (
            f"names 127.0.0.1:{mirror.port} for {some(mirror.registries)}, but nobody listens there: pulls go to the registry"
        )
        yield Finding(Level.WARN, subject, what, "`systemctl start als`")
    else:
        yield Finding(Level.OK, subject, f"pulls from {some(mirror.registries)} go through 127.0.0.1:{mirror.port}")


def _crio(crio: CrioFacts, store: StoreFacts) -> Iterator[Finding]:
    if crio.problem:
        yield Finding(Level.ERROR, "crio.conf", crio.problem, "correct the file; crio.conf(5)")
    conf, below = crio.conf, crio.storage or StorageConf("")
    if conf is None:
        return
    if conf.internal_repair:
        what = "internal_repair is on: after a kill CRI-O takes containers of the store for damaged, and removes all it has"
        yield Finding(Level.ERROR, conf.source, what, "internal_repair = false under [crio]")
    else:
        yield Finding(Level.OK, conf.source, "internal_repair is off")
    path = str(store.image_store)
    if path in map(_clean, (*below.image_stores, *conf.image_stores)):
        yield Finding(Level.OK, conf.source, f"CRI-O's additional image stores include {path}")
    else:
        what = f"neither storage_option nor storage.conf names {path}: CRI-O does not know of als"
        yield Finding(Level.ERROR, conf.source, what, f'storage_option = ["overlay.imagestore={path}", ...] under [crio]')
    options = conf.mount_options or below.mount_options
    if [option for option in options if option.startswith("metacopy=")][-1:] != ["metacopy=on"]:
        what = f"CRI-O mounts with {','.join(options) or '(no options)'}, which lacks metacopy=on"
        yield Finding(Level.ERROR, conf.source, what, 'storage_option = ["overlay.mountopt=nodev,metacopy=on", ...]')
    remedy = 'storage_option = ["overlay.mountopt=nodev,metacopy=on,verity=require", ...]'
    yield from _verity(conf.source, options, store, remedy)


def _clean(path: str) -> str:
    return path.rstrip("/") or "/"
