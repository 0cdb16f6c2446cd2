# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import KubernetesPlatform


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesPlatform]:
    """A namespace for the tests of one file."""
    path: Path = tmp_path_factory.mktemp("kubernetes")
    with KubernetesPlatform(path) as platform:
        yield platform
