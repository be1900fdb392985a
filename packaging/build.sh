#!/bin/bash
# build.sh [DIR]: the source archive, the source RPM and the RPM in DIR (default dist/). What is built is the last commit, with
# WORKTREE=1 the files as they are, as where there is no git. Works without a network. RPMBUILD_OPTIONS goes to rpmbuild,
# RELEASE is the package's release (default 1), PYTHON an interpreter that has what als needs (default .venv/bin/python).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

die() { echo "build: $*" >&2; exit 1; }
command -v rpmbuild >/dev/null || die "rpmbuild is missing: install the package rpm (Debian) or rpm-build (Fedora)"
out=$(mkdir -p "${1:-dist}" && readlink -f "${1:-dist}")
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
[ -n "$version" ] || die "pyproject.toml states no version"

top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
mkdir "$top"/{SOURCES,BUILD,RPMS,SRPMS,SPECS}
archive=$top/SOURCES/als-$version.tar.gz
if [ -e .git ] && [ -z "${WORKTREE:-}" ]; then
  git -c safe.directory='*' archive --format=tar.gz --prefix="als-$version/" -o "$archive" HEAD
else
  # Neither what was built here nor what is fetched for tests. No other git tree is looked for above this one.
  tar -c -z -f "$archive" --anchored --exclude=./.git --exclude=./.cache --exclude=./.venv --exclude=./dist --exclude=./build \
    --no-anchored --exclude='*.so' --exclude=__pycache__ --exclude='.*_cache' --exclude='*.egg-info' \
    --transform "s,^\.,als-$version,S" .
fi

# With the manual pages, which need what als needs: the spec makes them itself where this machine's Python lacks it.
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
if PYTHONPATH=$PWD "$python" packaging/dev/man.py "$top/als-$version/man" 2>"$top/log"; then
  gunzip "$archive"
  tar -r -f "${archive%.gz}" -C "$top" "als-$version/man"
  gzip -n "${archive%.gz}"
fi

options=(--define "_topdir $top" --define "als_version $version" --define "als_release ${RELEASE:-1}")
# Where another package manager installed what is needed, rpm knows of none of it.
command -v dnf >/dev/null || options+=(--nodeps)
rpmbuild -ba "${options[@]}" ${RPMBUILD_OPTIONS:-} packaging/als.spec >"$top/log" 2>&1 || { cat "$top/log" >&2; die "rpmbuild failed"; }
find "$top/RPMS" "$top/SRPMS" "$top/SOURCES" -type f -exec cp -t "$out" {} +
ls "$out"/als-"$version"*
