# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.kubernetes.cluster import KubernetesPlatform
from tests.unit import infrastructure_contract
from tests.unit.infrastructure_contract import InfrastructureContract, LogContract

pytestmark = pytest.mark.kubernetes


class TestKubernetesInfrastructure(InfrastructureContract, LogContract):
    @pytest.fixture
    def platform(self, cluster: KubernetesPlatform, monkeypatch: pytest.MonkeyPatch) -> KubernetesPlatform:
        # A kubelet that is told to end a pod while it still brings it up may say a minute later that it has.
        monkeypatch.setattr(infrastructure_contract, "PATIENCE_SECONDS", 120.0)
        return cluster
