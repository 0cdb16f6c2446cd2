# SPDX-License-Identifier: Apache-2.0
"""Our tables in Airflow's metadata database: made, upgraded and dropped together with Airflow's own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.utils.db_manager import BaseDBManager
from sqlalchemy import column, inspect, select, table
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random

from airflow_workpools import __version__
from airflow_workpools.errors import WorkpoolsError
from airflow_workpools.store.sessions import airflow_session
from airflow_workpools.store.tables import metadata

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_ATTEMPTS = 5


class WorkpoolsDBManager(BaseDBManager):
    """Airflow finds it through the provider's ``db-managers``; ``airflow db migrate`` runs it."""

    metadata = metadata
    version_table_name = "alembic_version_workpools"
    migration_dir = (_HERE / "migrations").as_posix()
    alembic_file = (_HERE / "alembic.ini").as_posix()
    supports_table_dropping = True
    revision_heads_map: ClassVar[dict[str, str]] = {"0.1.0": "0001_workpools"}

    def downgrade(
        self, to_revision: str, from_revision: str | None = None, show_sql_only: bool = False
    ) -> None:
        """Go back to an older revision; ``base`` removes the tables."""
        from alembic import command

        revision = f"{from_revision}:{to_revision}" if from_revision and show_sql_only else to_revision
        # The revision has been read on this session; its locks must not stand in the way.
        self.session.commit()
        command.downgrade(self.get_alembic_config(), revision, sql=show_sql_only)


def check_tables(session: Session) -> None:
    """Make sure that our tables are there.

    :raises WorkpoolsError: if they are not; the message says what to do.
    """
    inspector = inspect(session.connection())
    missing = [
        table.name
        for table in metadata.sorted_tables
        if not inspector.has_table(table.name, schema=table.schema)
    ]
    if missing:
        raise WorkpoolsError(
            "Tables of airflow-provider-workpools are missing in the metadata database "
            f"({', '.join(missing)}); run `airflow db migrate`"
        )


def ensure_tables() -> None:
    """Create or upgrade our tables if that has not been done; several schedulers may do so at once.

    :raises WorkpoolsError: if they are newer than this version.
    """
    if are_current():
        return
    retrying = Retrying(
        retry=retry_if_exception_type(DBAPIError),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random(0.1, 1),
        reraise=True,
    )
    # SQLite knows no lock for this. Who loses the race there fails because the tables are there, and finds
    # everything done when it looks again.
    retrying(_ensure_tables)


def are_current() -> bool:
    """Say whether our tables are as this version wants them; False also if that can't be found out.

    Asked without Alembic: the scheduler, which starts with this question, would keep it in memory for nothing.
    """
    versions = table(WorkpoolsDBManager.version_table_name, column("version_num"))
    *_, newest = WorkpoolsDBManager.revision_heads_map.values()
    try:
        with airflow_session() as session:
            return list(session.scalars(select(versions.c.version_num))) == [newest]
    except DBAPIError:  # there is no such table
        return False


def _refuse_newer(manager: Any) -> None:
    """Leave tables alone that a newer version of this provider has made: it knows what is in them.

    :raises WorkpoolsError: if they are of a revision that is not known here.
    """
    revision = manager.get_current_revision()
    known = {script.revision for script in manager.get_script_object().walk_revisions()}
    if revision is not None and revision not in known:
        raise WorkpoolsError(
            f"The tables of airflow-provider-workpools in the metadata database are of revision {revision}, which "
            f"version {__version__} does not know: install the version that made them, or a newer one"
        )


def _ensure_tables() -> None:
    from airflow.utils.db import DBLocks, create_global_lock

    with airflow_session() as session, create_global_lock(session=session, lock=DBLocks.MIGRATIONS):
        manager: Any = WorkpoolsDBManager(session)
        if not manager.check_migration():
            _refuse_newer(manager)
            log.info("Creating or upgrading the tables of airflow-provider-workpools")
            manager.initdb()
