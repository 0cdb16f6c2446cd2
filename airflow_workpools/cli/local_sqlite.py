# SPDX-License-Identifier: Apache-2.0
"""How the processes of a local Airflow connect to SQLite. Imported by Airflow while it is being imported itself.

All of Airflow writes into one file, one process at a time. Python's default, to wait 5 s for another to finish and
then to give up, is too short for most of it on a busy machine: a scheduler that gives up ends. For the API server it
is too long. It writes its audit rows in its event loop; if the lock is held by one of its own requests, which can't
commit while the event loop waits, nobody gets on until the wait is over.
"""

from __future__ import annotations

BUSY_SECONDS = 60.0
"""How long a process waits for the lock before it gives up with "database is locked"."""
API_SERVER_BUSY_SECONDS = 1.0
"""How long the API server does; whoever asked it asks again."""

CONNECT_ARGS = {"timeout": BUSY_SECONDS}
"""For ``[database] sql_alchemy_connect_args``."""
API_SERVER_CONNECT_ARGS = {"timeout": API_SERVER_BUSY_SECONDS}
