"""Newer podmans than the machine's own, from other suites of the distribution it runs: what a user will have, unchanged.

:func:`fetch` downloads podman and all it depends on with the machine's own apt (its mirror, proxy and keys; no host is named
here) into a root of its own, where nothing is installed: no maintainer script runs, no chroot is needed. The programs are then
pointed at the C library and the libraries of that root by patchelf, so that they run on this machine as they are. (A wrapper
that calls the other root's ld.so would not do: podman and crun start themselves again by ``/proc/self/exe``.)

The result lies in the cache folder and is used by later runs. It is made beside its final name and renamed, under a lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.podman import Binaries
from tests.harness.system import CommandFailed, run, wait_until

PROGRAMS = ("podman", "crun", "conmon", "skopeo")
HELPERS = ("netavark", "aardvark-dns", "catatonit")
PACKAGES = ("podman", "crun", "conmon", "skopeo", "netavark", "aardvark-dns", "catatonit")
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
_INTERPRETERS = ("usr/lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2")
_HELPER_FOLDERS = ("usr/lib/podman", "usr/libexec/podman", "usr/bin")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LOCK_DEADLINE = 300.0
_DOWNLOAD_DEADLINE = 240.0
_FORMAT = "1"
"""Part of the cached folder's name: to be changed with what is made of the packages."""


class Unavailable(Exception):
    """This machine cannot have the client; the message is the reason for a skip."""


@dataclass(frozen=True)
class Client:
    """One podman and the skopeo of the same suite."""

    suite: str
    folder: Path

    @property
    def binaries(self) -> Binaries:
        programs = {name: str(self.folder / "bin" / name) for name in ("podman", "crun", "conmon")}
        return Binaries(**programs, helpers=str(self.folder / "helpers"))

    @property
    def skopeo(self) -> Path:
        return self.folder / "bin" / "skopeo"


def fetch(suite: str, cache: Path) -> Client:
    """The client of a Debian suite, from the cache or the mirror.

    :raises Unavailable: this is no machine for it. What should work and does not is another error.
    """
    if platform.machine() != "x86_64":
        raise Unavailable(f"the podman of Debian {suite} is fetched for x86-64 only")
    if _os_release().get("ID") != "debian":
        raise Unavailable(f"the podman of Debian {suite} is fetched on Debian only")
    # The programs have the folder's absolute path in them.
    key = hashlib.sha256(f"{_FORMAT}:{cache.resolve()}".encode()).hexdigest()[:12]
    folder = cache.resolve() / f"podman-{suite}-{key}"
    cache.mkdir(exist_ok=True)
    with _locked(cache / f"podman-{suite}.lock"):
        if not folder.exists():
            _make(suite, folder)
    return Client(suite, folder)


def binaries_of(suite: str, cache: Path) -> Binaries:
    """The programs of a suite's podman: the machine's own where that is of the wanted age, else fetched ones.

    :raises Unavailable: see :func:`fetch`.
    """
    if suite == "bookworm" and shutil.which("podman") and run("podman", "--version").stdout.startswith(b"podman version 4."):
        return Binaries()
    return fetch(suite, cache).binaries


def _os_release() -> dict[str, str]:
    lines = (line.partition("=") for line in Path("/etc/os-release").read_text("utf-8").splitlines())
    return {name: value.strip('"') for name, _, value in lines}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:

        def taken() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        wait_until(taken, f"lock of {path} (another run that downloads?)", _LOCK_DEADLINE)
        yield


def _make(suite: str, folder: Path) -> None:
    for left in folder.parent.glob(f"podman-{suite}-*"):  # By a run that was killed, or an older form of this.
        shutil.rmtree(left)
    staging = Path(tempfile.mkdtemp(prefix=f"podman-{suite}-", dir=folder.parent))
    try:
        staging.chmod(0o755)
        apt = staging / "apt"
        try:
            _download(suite, apt)
        except (CommandFailed, subprocess.TimeoutExpired) as error:
            # Not a reason that CI accepts: there the clients have to come.
            raise Unavailable(f"the packages of Debian {suite} cannot be downloaded: {error}") from error
        root = staging / "root"
        for package in sorted((apt / "archives").glob("*.deb")):
            run("dpkg-deb", "-x", package, root)
        shutil.rmtree(apt)
        _assemble(root, staging, folder)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    try:
        run(folder / "bin" / "podman", "--version")
    except (OSError, CommandFailed):
        shutil.rmtree(folder)
        raise


def _mirrors() -> list[str]:
    """The addresses from which this machine gets its own release."""
    shown = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    release = _os_release().get("VERSION_CODENAME", "sid")
    rows = (line.split() for line in shown.stdout.decode().splitlines())
    return list(dict.fromkeys(row[0] for row in rows if row[1:] == [release, "main"]))


def _download(suite: str, apt: Path) -> None:
    """The packages and all they depend on, as if nothing were installed, into ``apt/archives``."""
    for name in ("archives/partial", "lists/partial", "conf", "preferences"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    # The machine's way to its mirror (proxy, certificates, retries), but none of its hooks.
    acquire = [line for line in run("apt-config", "dump").stdout.decode().splitlines() if line.startswith("Acquire::")]
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
    config.write_text("\n".join([*acquire, *(f'{name} "{value}";' for name, value in own.items())]), "utf-8")
    # A suite that is no longer updated, or a mirror's snapshot, is as good for this.
    options = "check-valid-until=no" + (f" signed-by={_KEYRING}" if _KEYRING.exists() else "")
    sources = (f"deb [{options}] {mirror} {suite} main" for mirror in _mirrors())
    (apt / "sources.list").write_text("".join(f"{line}\n" for line in sources), "utf-8")
    environment = {"APT_CONFIG": str(config)}
    run("apt-get", "-q", "update", env=environment, deadline=_DOWNLOAD_DEADLINE)
    # libc6 and the rest of the closure come as dependencies; `-d` stops before dpkg.
    run("apt-get", "-q", "-y", "-d", "install", *PACKAGES, env=environment, deadline=_DOWNLOAD_DEADLINE)


def _assemble(root: Path, staging: Path, folder: Path) -> None:
    """bin/ and helpers/ of `staging`, whose programs work once it is called `folder`."""
    interpreter = next(path for name in _INTERPRETERS if (path := root / name).exists())
    search = ":".join(str(folder / "root" / name) for name in _LIBRARIES)
    for kind, names in (("bin", PROGRAMS), ("helpers", HELPERS)):
        (staging / kind).mkdir()
        for name in names:
            source = next(path for place in ("usr/bin", *_HELPER_FOLDERS) if (path := root / place / name).exists())
            target = staging / kind / name
            shutil.copy(source, target)
            if run("patchelf", "--print-interpreter", target, status=None).returncode:
                continue  # Linked statically.
            final = folder / interpreter.relative_to(staging)
            run("patchelf", "--set-interpreter", final, "--force-rpath", "--set-rpath", search, target)
    kept = {"usr/lib/x86_64-linux-gnu", "usr/lib64", "lib/x86_64-linux-gnu", "lib64"}
    for path in [*root.glob("*"), *root.glob("usr/*"), *root.glob("usr/lib/*"), *root.glob("lib/*")]:
        name = str(path.relative_to(root))
        if not path.is_symlink() and path.is_dir() and not any(f"{one}/".startswith(f"{name}/") or name == one for one in kept):
            shutil.rmtree(path)
