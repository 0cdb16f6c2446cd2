# SPDX-License-Identifier: Apache-2.0
"""Airflow's audit log: who changed what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.models.log import Log

from airflow_workpools.store.sessions import airflow_session

if TYPE_CHECKING:
    from airflow_workpools.store.sessions import SessionFactory


def write_audit_row(
    event: str, *, owner: str, extra: str, session_factory: SessionFactory = airflow_session
) -> None:
    """Write a row into Airflow's table ``log``, in a transaction of its own: a change that fails was tried, too.

    :param owner: the user.
    :param extra: JSON text.
    """
    with session_factory() as session:
        session.add(Log(event=event, task_instance=None, owner=owner, owner_display_name=owner, extra=extra))
