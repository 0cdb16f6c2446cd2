#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Make a virtual environment and install into it.  Usage: tools/venv.sh FOLDER PIP-INSTALL-ARGUMENTS...
# PYTHON names the interpreter (default: the first of python3, python3.13 ... python3.10 that is new enough).
# A folder that is there is used again; one that was left half made is made anew.
set -euo pipefail

folder=$1
shift

say() { printf 'make: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.10 or newer"
        command -v "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.10 or newer is needed; install it (Debian: apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python3"
}

# Debian ships the venv module without what it needs, unless python3-venv is installed.
ensure_venv_module() {
    local python=$1 package
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing Debian's $package"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package"; } >&2 \
            || true
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null \
        || die "$python cannot make virtual environments; run: sudo apt-get install $package"
}

if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    ensure_venv_module "$python"
    say "making $folder with $python"
    rm -rf "$folder"
    "$python" -m venv "$folder" || die "could not make $folder (see above)"
fi

say "installing into $folder (a few minutes the first time)"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --retries 5 --timeout 60 "$@" \
    || die "installing into $folder failed (see above); nothing is lost: the same command goes on where it stopped"
