#!/bin/bash
# Installs what is missing for `make demo` and `make test`: distribution packages (only as root), and .venv with als in it.
# Running it again costs a fraction of a second. It uses the machine's own package configuration and names no host.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }
wanted() {
  grep -v '^#' "packaging/dev/packages.$1"
  # From Debian 13 on podman does not even pull without its network program, which it only recommends.
  if [ "$1" = apt ] && (. /etc/os-release; [ "${ID:-}" = debian ] && [ "${VERSION_ID:-0}" -ge 13 ]); then echo netavark; fi
}

# One of the alternatives of a line "a|b" is installed.
deb_installed() {
  local name
  for name in ${1//|/ }; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] && return 0
  done
  return 1
}

# The first of the alternatives that the machine's package sources have.
deb_candidate() {
  local name
  for name in ${1//|/ }; do
    if apt-cache show --no-all-versions "$name" >/dev/null 2>&1; then echo "$name"; return 0; fi
  done
  return 1
}

install_debs() {
  local line name missing=() names=() log=.cache/apt.log
  for line in $(wanted apt); do deb_installed "$line" || missing+=("$line"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "missing packages: ${missing[*]} (run this as root: sudo make ...)"
  say "apt-get install ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  mkdir -p .cache
  apt-get -o Acquire::Retries=3 -q update >"$log" 2>&1 || say "apt-get update had errors (see $log); trying with what it has"
  for line in "${missing[@]}"; do
    name=$(deb_candidate "$line") || die "this machine's package sources have none of ${line//|/, }"
    names+=("$name")
  done
  # Services that the packages would start (a registry on port 5000) are not wanted, only the programs: policy-rc.d says so.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
  fi
  apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -q -y --no-install-recommends install "${names[@]}" >>"$log" 2>&1 ||
    { tail -n 30 "$log" >&2; die "apt-get install failed; the whole output is in $log"; }
}

install_rpms() {
  local name missing=()
  for name in $(wanted dnf); do rpm -q --quiet --whatprovides "$name" || missing+=("$name"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "missing packages: ${missing[*]} (run this as root: sudo make ...)"
  say "dnf install ${missing[*]}"
  dnf -q -y install "${missing[@]}" || die "dnf install failed"
}

# The distribution's own interpreter first: its headers are what the package list installs.
find_python() {
  local python
  for python in /usr/bin/python3 /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11 python3; do
    if "$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$python"; return 0; fi
  done
  die "no python >= 3.11 with venv found"
}

make_venv() {
  local python stamp=.venv/.als-setup key
  python=$(find_python)
  key=$({ "$python" -c 'import sys; print(sys.version, sys.executable)'; pwd; cat pyproject.toml; cat setup.py cffi_build/*.py 2>/dev/null || :; } | sha256sum)
  [ -e $stamp ] && [ "$(cat $stamp)" = "$key" ] && return 0
  say "making .venv with $python"
  mkdir -p .cache
  [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || { rm -rf .venv; "$python" -m venv .venv; }
  .venv/bin/python -m pip --disable-pip-version-check install -q --retries 5 -e '.[dev]' >.cache/pip.log 2>&1 ||
    { tail -n 30 .cache/pip.log >&2; die "pip install failed; the whole output is in .cache/pip.log"; }
  echo "$key" >$stamp
}

if command -v apt-get >/dev/null; then install_debs
elif command -v dnf >/dev/null; then install_rpms
else say "neither apt-get nor dnf here: see packaging/dev/packages.apt for what has to be installed"
fi
make_venv
