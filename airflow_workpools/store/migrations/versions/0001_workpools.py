# SPDX-License-Identifier: Apache-2.0
"""Create the tables of the installation, of pools, queues, workers, jobs, their logs, and tokens.

Revision ID: 0001_workpools
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from airflow.models.base import StringID
from airflow.utils.sqlalchemy import UtcDateTime
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMBLOB, MEDIUMTEXT, VARCHAR

from airflow_workpools.store.tables import metadata

revision = "0001_workpools"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = metadata.schema
NAME = sa.String(63).with_variant(VARCHAR(63, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
JSON_ = sa.JSON().with_variant(MEDIUMTEXT(), "mysql")


def upgrade() -> None:
    op.create_table(
        "workpool_installation",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="workpool_installation_pkey"),
        schema=SCHEMA,
    )
    op.create_table(
        "workpool_pool",
        sa.Column("name", NAME, nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("claim_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="workpool_pool_pkey"),
        schema=SCHEMA,
    )
    op.create_table(
        "workpool_queue",
        sa.Column("pool", NAME, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("last_polled_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("pool", "name", name="workpool_queue_pkey"),
        schema=SCHEMA,
    )
    op.create_table(
        "workpool_worker",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(250), nullable=False),
        sa.Column("hostname", sa.String(250), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("pools", JSON_, nullable=True),
        sa.Column("queues", JSON_, nullable=True),
        sa.Column("slots", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("last_heartbeat_at", UtcDateTime(), nullable=False),
        sa.Column("heartbeat_seconds", sa.Double(), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("team_name", sa.String(50), nullable=True),
        sa.Column("token_id", sa.String(16), nullable=True),
        sa.Column("call_number", sa.Integer(), nullable=True),
        sa.Column("hindered", JSON_, nullable=True),
        sa.Column("steady_since", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="workpool_worker_pkey"),
        schema=SCHEMA,
    )
    op.create_table(
        "workpool_job",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("task_instance_id", sa.Uuid(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("dag_id", StringID(), nullable=False),
        sa.Column("task_id", StringID(), nullable=False),
        sa.Column("run_id", StringID(), nullable=False),
        sa.Column("map_index", sa.Integer(), nullable=False),
        sa.Column("try_number", sa.Integer(), nullable=False),
        sa.Column("pool", NAME, nullable=False),
        sa.Column("queue", NAME, nullable=False),
        sa.Column("pool_slots", sa.Integer(), nullable=False),
        sa.Column("priority_weight", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("desired_state", sa.String(20), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("workload", sa.Text().with_variant(MEDIUMTEXT(), "mysql"), nullable=False),
        sa.Column("job_variables", JSON_, nullable=False),
        sa.Column("handle", JSON_, nullable=True),
        sa.Column("worker_id", sa.Uuid(), nullable=True),
        sa.Column("scheduler_job_id", sa.Integer(), nullable=True),
        sa.Column("start_timeout_seconds", sa.Double(), nullable=False),
        sa.Column("start_attempts", sa.Integer(), nullable=False),
        sa.Column("team_name", sa.String(50), nullable=True),
        sa.Column("handed_over_at", UtcDateTime(), nullable=False),
        sa.Column("claimed_at", UtcDateTime(), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("reported_at", UtcDateTime(), nullable=True),
        sa.Column("renewed_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="workpool_job_pkey"),
        schema=SCHEMA,
    )
    _create_job_indexes()
    op.create_table(
        "workpool_token",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("pools", JSON_, nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("created_by", sa.String(250), nullable=True),
        sa.Column("expires_at", UtcDateTime(), nullable=True),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.Column("last_used_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="workpool_token_pkey"),
        schema=SCHEMA,
    )
    op.create_table(
        "workpool_log",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary().with_variant(MEDIUMBLOB(), "mysql"), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "attempt", "position", name="workpool_log_pkey"),
        schema=SCHEMA,
    )


def _create_job_indexes() -> None:
    ended, not_ended = sa.text("ended_at IS NOT NULL"), sa.text("ended_at IS NULL")
    not_reported = sa.text("reported_at IS NULL")
    op.create_index(
        "workpool_job_waiting",
        "workpool_job",
        ["pool", "state", "queue", sa.text("priority_weight DESC"), "handed_over_at", "id"],
        postgresql_where=not_ended,
        sqlite_where=not_ended,
        schema=SCHEMA,
    )
    op.create_index(
        "workpool_job_of_worker",
        "workpool_job",
        ["worker_id", "ended_at"],
        postgresql_where=not_ended,
        sqlite_where=not_ended,
        schema=SCHEMA,
    )
    op.create_index(
        "workpool_job_unreported",
        "workpool_job",
        ["scheduler_job_id", "reported_at", "ended_at"],
        postgresql_where=not_reported,
        sqlite_where=not_reported,
        schema=SCHEMA,
    )
    op.create_index(
        "workpool_job_task_instance", "workpool_job", ["task_instance_id", "round"], schema=SCHEMA
    )
    op.create_index(
        "workpool_job_ended",
        "workpool_job",
        ["ended_at"],
        postgresql_where=ended,
        sqlite_where=ended,
        schema=SCHEMA,
    )
    op.create_index(
        "workpool_job_handed_over", "workpool_job", [sa.text("handed_over_at DESC"), "id"], schema=SCHEMA
    )
    for name, *columns in (
        ("workpool_job_over_of_pool", "pool", "state"),
        ("workpool_job_over_of_queue", "pool", "queue", "state"),
        ("workpool_job_over_of_dag", "dag_id", "pool", "state"),
    ):
        op.create_index(
            name,
            "workpool_job",
            [*columns, sa.text("handed_over_at DESC"), "id"],
            postgresql_where=ended,
            sqlite_where=ended,
            schema=SCHEMA,
        )


def downgrade() -> None:
    of_jobs = ("workpool_log", "workpool_job")
    of_workers = ("workpool_token", "workpool_worker")
    for table in (*of_jobs, *of_workers, "workpool_queue", "workpool_pool", "workpool_installation"):
        # MySQL and MariaDB drop for good at once: what ended half-way must be able to go on.
        op.drop_table(table, schema=SCHEMA, if_exists=True)
