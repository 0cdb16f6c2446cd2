# SPDX-License-Identifier: Apache-2.0
"""Print the OpenAPI document of the worker API; ``make openapi`` writes it into the repository."""

from __future__ import annotations

import json

from airflow_workpools.api.app import openapi_document

if __name__ == "__main__":
    print(json.dumps(openapi_document(), indent=2, sort_keys=True))
