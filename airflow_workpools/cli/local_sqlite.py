# SPDX-License-Identifier: Apache-2.0
"""How the processes of a local Airflow connect to SQLite. Imported by Airflow while it is being imported itself."""

from __future__ import annotations

BUSY_SECONDS = 60.0
"""How long a process waits for another to finish writing, before it gives up with "database is locked"."""

CONNECT_ARGS = {"timeout": BUSY_SECONDS}
"""For ``[database] sql_alchemy_connect_args``. Python's default of 5 s is too short for a busy machine, and a scheduler
that gives up ends."""
