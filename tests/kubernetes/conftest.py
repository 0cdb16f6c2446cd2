# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import KubernetesPlatform
from tests.kubernetes.testbed import using_the_cluster


@pytest.fixture(autouse=True, scope="module")
def _whole_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep tests that break the cluster apart from those that use it, also in other processes."""
    breaks_it = any(mark.name == "breakable_kubernetes" for mark in request.node.iter_markers())
    with using_the_cluster(alone=breaks_it):
        yield


@pytest.fixture(scope="module")
def cluster(_whole_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesPlatform]:
    """A namespace for the tests of one file."""
    path: Path = tmp_path_factory.mktemp("kubernetes")
    with KubernetesPlatform(path) as platform:
        yield platform
