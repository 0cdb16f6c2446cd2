# SPDX-License-Identifier: Apache-2.0
"""The entry point ``airflow.policy``: Airflow imports this module inside ``import airflow``, in every process."""

from __future__ import annotations
