# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.infrastructure_contract import (
    InfrastructureContract,
    LeftBehindContract,
    LogContract,
)
from tests.unit.process_platform import ElsewhereProcessPlatform, ProcessPlatform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class TestProcessInfrastructure(InfrastructureContract):
    @pytest.fixture
    def platform(self, tmp_path: Path) -> Iterator[ProcessPlatform]:
        with ProcessPlatform(tmp_path) as platform:
            yield platform


class TestElsewhereProcessInfrastructure(InfrastructureContract, LogContract, LeftBehindContract):
    @pytest.fixture
    def platform(self, tmp_path: Path) -> Iterator[ElsewhereProcessPlatform]:
        with ElsewhereProcessPlatform(tmp_path) as platform:
            yield platform
