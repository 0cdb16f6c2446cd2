# SPDX-License-Identifier: Apache-2.0
"""A process that must never use the metadata database, though importing Airflow has set it up."""

from __future__ import annotations

import os
import sys


def forbid_database() -> None:
    """Let go of the metadata database, and make whoever asks for it fail with a clear error.

    The environment is left as it is: programs that are started import Airflow anew, and set up what they find there.
    """
    from airflow.sdk.execution_time.supervisor import block_orm_access

    if "airflow.settings" in sys.modules:
        from airflow.settings import dispose_orm

        dispose_orm(do_log=False)
    names = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN")
    before = {name: os.environ.get(name) for name in names}
    block_orm_access()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
