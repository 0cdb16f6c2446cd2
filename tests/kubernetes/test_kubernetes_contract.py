# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.kubernetes.cluster import KubernetesPlatform
from tests.unit import infrastructure_contract
from tests.unit.infrastructure_contract import (
    InfrastructureContract,
    LeftBehindContract,
    LogContract,
    follow,
    launch,
    run,
    wait_for_end,
    working,
)

pytestmark = pytest.mark.kubernetes


class TestKubernetesInfrastructure(InfrastructureContract, LeftBehindContract, LogContract):
    @pytest.fixture
    def platform(self, cluster: KubernetesPlatform, monkeypatch: pytest.MonkeyPatch) -> KubernetesPlatform:
        # A kubelet that is told to end a pod while it still brings it up may say a minute later that it has.
        monkeypatch.setattr(infrastructure_contract, "PATIENCE_SECONDS", 120.0)
        return cluster

    def test_another_worker_goes_on_reading_at_an_offset(self, platform: KubernetesPlatform) -> None:  # type: ignore[override]
        # A pod that is stopped goes with its log. So this job ends by itself.
        spec = platform.spec("echo one; echo two; while ! test -s /diary; do sleep 0.1; done")

        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, spec)
                await follow(worker, handle, until=b"two\n")
            async with working(platform) as later:
                assert await follow(later, handle, offset=2, until=b"two\n") == b"e\ntwo\n"
                platform.write(spec, "go on")
                await wait_for_end(later, handle)
                assert await follow(later, handle, offset=4) == b"two\n"
                assert await follow(later, handle, offset=8) == b""

        run(scenario())
