"""Programs of other suites of the Debian that a machine runs, unpacked and made to run there; nothing is installed.

:func:`unpack` downloads packages and all they depend on with the machine's own apt (its mirror, proxy and keys; no host is
named here) into a root of its own: no maintainer script runs, no chroot is needed. :func:`own_libraries` then points a program
at the C library and the libraries of that root by patchelf, so that it runs on this machine as it is. (A wrapper that calls
the other root's ld.so would not do: podman and crun start themselves again by ``/proc/self/exe``, and QEMU looks for its files
beside it.)
"""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.harness.system import CommandFailed, run, wait_until

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
_INTERPRETERS = ("usr/lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2")
_LOCK_DEADLINE = 600.0
_DOWNLOAD_DEADLINE = 300.0
_DEBOOTSTRAP_DEADLINE = 900.0


class Unavailable(Exception):
    """This machine cannot have what was asked for; the message is the reason for a skip."""


def os_release() -> dict[str, str]:
    """What os-release(5) says of the machine."""
    lines = (line.partition("=") for line in Path("/etc/os-release").read_text("utf-8").splitlines())
    return {name: value.strip('"') for name, _, value in lines}


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made if need be.

    :raises TimeoutError: another process has held it for ten minutes.
    """
    with path.open("ab") as file:

        def taken() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        wait_until(taken, f"lock of {path} (another run that downloads?)", _LOCK_DEADLINE)
        yield


def made_once(
    what: str, name: str, form: str, cache: Path, make: Callable[[Path, Path], None], check: Callable[[Path], None]
) -> Path:
    """A folder of unpacked programs in the cache, made now if it is not there.

    It is made beside its final name and renamed, under a lock. The programs have its absolute path in them, so its name
    depends on that, and on `form`, which is to be changed with what is made of the packages.

    :param what: is fetched, in the words of a reason to skip.
    :param make: fills the first folder, with what works once that is called as the second.
    :param check: raises CommandFailed where what is in the folder does not run; then it is removed.
    :raises Unavailable: this is no machine for it. What should work and does not is another error.
    """
    if platform.machine() != "x86_64":
        raise Unavailable(f"{what} is fetched for x86-64 only")
    if os_release().get("ID") != "debian":
        raise Unavailable(f"{what} is fetched on Debian only")
    key = hashlib.sha256(f"{form}:{cache.resolve()}".encode()).hexdigest()[:12]
    folder = cache.resolve() / f"{name}-{key}"
    cache.mkdir(exist_ok=True)
    with only_one(cache / f"{name}.lock"):
        if not folder.exists():
            _make(name, folder, make)
            try:
                check(folder)
            except (OSError, CommandFailed):
                shutil.rmtree(folder)
                raise
    return folder


def _make(name: str, folder: Path, make: Callable[[Path, Path], None]) -> None:
    for left in folder.parent.glob(f"{name}-*"):  # By a run that was killed, or an older form of this.
        shutil.rmtree(left)
    staging = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder.parent))
    try:
        staging.chmod(0o755)
        make(staging, folder)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def sources(suite: str) -> list[str]:
    """The lines of sources.list for a suite, from where this machine gets its own release."""
    shown = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    release = os_release().get("VERSION_CODENAME", "sid")
    rows = (line.split() for line in shown.stdout.decode().splitlines())
    mirrors = dict.fromkeys(row[0] for row in rows if row[1:] == [release, "main"])
    # A suite that is no longer updated, or a mirror's snapshot, is as good for this.
    options = "check-valid-until=no" + (f" signed-by={KEYRING}" if KEYRING.exists() else "")
    return [f"deb [{options}] {mirror} {suite} main" for mirror in mirrors]


def acquire_options() -> list[str]:
    """The machine's way to its mirror (proxy, certificates, retries) as lines of apt.conf, but none of its hooks."""
    return [line for line in run("apt-config", "dump").stdout.decode().splitlines() if line.startswith("Acquire::")]


def debootstrap(suite: str, packages: Sequence[str], target: Path, *options: str) -> None:
    """A suite's smallest system with some packages, installed by mmdebstrap into a new folder or ``.tar``.

    :raises Unavailable: they cannot be downloaded. Not a reason that CI accepts.
    """
    own = [word for line in acquire_options() for word in ("--aptopt", line)]
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet", f"--include={','.join(packages)}", *own, *options]
    lines = "".join(f"{line}\n" for line in sources(suite)).encode()
    try:
        run(*command, f"--keyring={KEYRING}", suite, target, "-", data=lines, deadline=_DEBOOTSTRAP_DEADLINE)
    except (CommandFailed, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the packages of Debian {suite} cannot be downloaded: {error}") from error


def unpack(suite: str, packages: Sequence[str], root: Path) -> None:
    """Packages of a suite and all they depend on, as if nothing were installed, unpacked in a new folder.

    :raises Unavailable: they cannot be downloaded. Not a reason that CI accepts.
    """
    apt = root.with_name(f".{root.name}-apt")
    try:
        _download(suite, packages, apt)
        for package in sorted((apt / "archives").glob("*.deb")):
            run("dpkg-deb", "-x", package, root)
    except (CommandFailed, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the packages of Debian {suite} cannot be downloaded: {error}") from error
    finally:
        shutil.rmtree(apt, ignore_errors=True)


def _download(suite: str, packages: Sequence[str], apt: Path) -> None:
    for name in ("archives/partial", "lists/partial", "conf", "preferences"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    own = {
        "Dir::Etc::Parts": apt / "conf",
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": apt / "conf",
        "Dir::Etc::Preferences": apt / "preferences.list",
        "Dir::Etc::PreferencesParts": apt / "preferences",
        "Dir::State::Lists": apt / "lists",
        "Dir::State::Status": apt / "status",
        "Dir::State::extended_states": apt / "extended_states",
        "Dir::Cache::Archives": apt / "archives",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "APT::Architecture": "amd64",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    config = apt / "apt.conf"
    config.write_text("\n".join([*acquire_options(), *(f'{name} "{value}";' for name, value in own.items())]), "utf-8")
    (apt / "sources.list").write_text("".join(f"{line}\n" for line in sources(suite)), "utf-8")
    environment = {"APT_CONFIG": str(config)}
    run("apt-get", "-q", "update", env=environment, deadline=_DOWNLOAD_DEADLINE)
    # libc6 and the rest of the closure come as dependencies; `-d` stops before dpkg.
    run("apt-get", "-q", "-y", "-d", "install", *packages, env=environment, deadline=_DOWNLOAD_DEADLINE)


def own_libraries(program: Path, root: Path, final: Path) -> None:
    """Let a program use the C library and the libraries of `root` alone, once that is called `final`."""
    if run("patchelf", "--print-interpreter", program, status=None).returncode:
        return  # Linked statically.
    interpreter = next(final / name for name in _INTERPRETERS if (root / name).exists())
    search = ":".join(str(final / name) for name in _LIBRARIES)
    run("patchelf", "--set-interpreter", interpreter, "--force-rpath", "--set-rpath", search, program)
