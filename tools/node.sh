#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Says what to do where there is no Node.js that can build the pages of Airflow's UI.
set -euo pipefail

version=$(node --version 2>/dev/null | tr -d v || true)
if ! command -v npm >/dev/null || [ "$(printf '%s\n' 20.19 "${version:-0}" | sort -V | head -n 1)" != 20.19 ]; then
    printf 'make: the pages need npm and Node.js 20.19 or newer, not %s; without, everything but the pages works\n' "${version:-none}" >&2
    exit 1
fi
