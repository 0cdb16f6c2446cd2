# SPDX-License-Identifier: Apache-2.0
"""Which versions of worker and API server understand each other. Pure."""

from __future__ import annotations

import re

_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})(?:\D.*)?", re.ASCII)


def version_problem(worker: str | None, server: str) -> str | None:
    """Say why a worker of this version can't speak with an API server of that version, or None if it can.

    They may be one minor version apart, so that either can be upgraded first.
    """
    if not worker:
        return "the worker does not say its version"
    theirs, ours = _VERSION.fullmatch(worker), _VERSION.fullmatch(server)
    if theirs is None or ours is None:
        return f"{worker[:40]!r} is no version of airflow-provider-workpools"
    (major, minor), (our_major, our_minor) = (tuple(map(int, found.groups())) for found in (theirs, ours))
    if major == our_major and abs(minor - our_minor) <= 1:
        return None
    older = "worker" if (major, minor) < (our_major, our_minor) else "API server"
    return (
        f"the worker has airflow-provider-workpools {worker[:40]}, the API server {server}: they may be one minor "
        f"version apart. Upgrade it on the {older}"
    )
