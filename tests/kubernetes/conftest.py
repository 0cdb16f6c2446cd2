# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import KubernetesPlatform


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KubernetesPlatform]:
    """A namespace for the tests of one file."""
    path: Path = tmp_path_factory.mktemp("kubernetes")
    breaks_it = any(mark.name == "breakable_kubernetes" for mark in request.node.iter_markers())
    with KubernetesPlatform(path, alone=breaks_it) as platform:
        yield platform
