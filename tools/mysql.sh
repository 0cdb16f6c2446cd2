#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Install the drivers for MariaDB and MySQL into a virtual environment, if they can be compiled here: not everybody who
# runs the demo or the other tests has a compiler.  Usage: tools/mysql.sh FOLDER STAMP PIP-INSTALL-ARGUMENTS...
# The file STAMP is made only where they are installed. Tests that need them are skipped elsewhere, and say what to do.
set -euo pipefail

folder=$1 stamp=$2
shift 2

can_compile() {
    command -v cc && { pkg-config --exists mariadb || pkg-config --exists mysqlclient; } \
        && "$folder/bin/python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
} >/dev/null 2>&1

can_compile || exit 0
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --retries 5 --timeout 60 "$@" \
    || { printf 'make: the drivers for MariaDB could not be installed (see above); its tests are skipped\n' >&2; exit 0; }
touch "$stamp"
