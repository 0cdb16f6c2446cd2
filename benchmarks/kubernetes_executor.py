# SPDX-License-Identifier: Apache-2.0
"""A real Airflow with KubernetesExecutor, as it is by default: how fast it creates the pods of waiting tasks.

No node fits the pods, so that none runs.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from airflow_workpools.cli.local_airflow import LocalAirflow, Ports
from tests.kubernetes.cluster import IMAGE, KubernetesPlatform
from tests.postgres import postgres_server

DAGS = Path(__file__).parent / "dags"
EXECUTOR = "airflow.providers.cncf.kubernetes.executors.kubernetes_executor.KubernetesExecutor"
TASKS = 100


def measure_executor(pods: int, longest_seconds: float) -> dict[str, Any]:
    """Trigger a hundred tasks; return how fast there come to be pods of them, up to this many or for this long."""
    home = Path(tempfile.mkdtemp(prefix="workpools-bench-"))
    try:
        with KubernetesPlatform(home) as platform, postgres_server() as server:
            airflow = _airflow(home, server.create_database("airflow"), platform.namespace)
            airflow.migrate()
            with airflow:
                airflow.start()
                airflow.wait_ready()
                airflow.wait_for(lambda: airflow.api.has_dag("hundred"), timeout=60, what="the DAG")
                airflow.api.trigger("hundred")
                airflow.wait_for(platform.pods, timeout=60, what="the first pod", interval=0.5)
                until = time.monotonic() + longest_seconds
                while len(platform.pods()) < pods and time.monotonic() < until:
                    time.sleep(1)
            created = sorted(pod.metadata.creation_timestamp for pod in platform.pods())
    finally:
        shutil.rmtree(home, ignore_errors=True)
    took = max(1.0, (created[-1] - created[0]).total_seconds())  # the API tells whole seconds
    return {"pods": len(created), "seconds": took, "pods_per_second": (len(created) - 1) / took}


def _airflow(home: Path, database: str, namespace: str) -> LocalAirflow:
    template = home / "pod.json"
    container = {"name": "base", "image": IMAGE, "imagePullPolicy": "Never"}
    spec = {"restartPolicy": "Never", "nodeSelector": {"no.such/label": "here"}, "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "task"}, "spec": spec}
    template.write_text(json.dumps(pod))
    repository, _, tag = IMAGE.rpartition(":")
    ours = {
        "NAMESPACE": namespace,
        "POD_TEMPLATE_FILE": str(template),
        "IN_CLUSTER": "False",
        "CONFIG_FILE": os.environ["KUBECONFIG"],
        "WORKER_CONTAINER_REPOSITORY": repository,
        "WORKER_CONTAINER_TAG": tag,
    }
    return LocalAirflow(
        home=home / "airflow",
        dags_folder=DAGS,
        executor=EXECUTOR,
        database_url=database,
        ports=Ports.choose(),
        settings={
            # Not the default of 32: none of these tasks ends.
            "AIRFLOW__CORE__PARALLELISM": str(TASKS),
            **{f"AIRFLOW__KUBERNETES_EXECUTOR__{name}": value for name, value in ours.items()},
        },
    )
