# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.containers import DockerPlatform
from tests.engines import podman
from tests.unit.infrastructure_contract import InfrastructureContract, LeftBehindContract, LogContract

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.docker
class TestDockerInfrastructure(InfrastructureContract, LeftBehindContract, LogContract):
    @pytest.fixture
    def platform(self, tmp_path: Path) -> Iterator[DockerPlatform]:
        with DockerPlatform(tmp_path) as platform:
            yield platform


@pytest.fixture(scope="module")
def podman_url() -> Iterator[str]:
    with podman() as url:
        yield url


@pytest.mark.podman
class TestDockerInfrastructureOnPodman(InfrastructureContract, LeftBehindContract, LogContract):
    @pytest.fixture
    def platform(self, tmp_path: Path, podman_url: str) -> Iterator[DockerPlatform]:
        with DockerPlatform(tmp_path, podman_url) as platform:
            yield platform
