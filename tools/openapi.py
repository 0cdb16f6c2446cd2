# SPDX-License-Identifier: Apache-2.0
"""Write the OpenAPI documents of the worker API and of the pool API into the repository: ``make openapi``."""

from __future__ import annotations

import json
from pathlib import Path

from airflow_workpools.api import app as worker_api
from airflow_workpools.api.pools import app as pool_api

FOLDER = Path(__file__).parents[1] / "airflow_workpools/api/openapi"

DOCUMENTS = {"worker-v1.json": worker_api.openapi_document, "pool-v1.json": pool_api.openapi_document}

if __name__ == "__main__":
    for name, document in DOCUMENTS.items():
        (FOLDER / name).write_text(json.dumps(document(), indent=2, sort_keys=True) + "\n")
