# SPDX-License-Identifier: Apache-2.0
"""Every SQL statement on our tables, by name, each with a line of purpose.

``common`` holds the guards, and what differs between databases; the rest is sorted by who asks: ``executor``,
``claim`` and ``worker``, ``run_time`` (for people and the scheduler) and ``reconcile`` (which also reads Airflow's
tables).

A change of a job's state is one guarded ``UPDATE``: its ``WHERE`` comes from
:data:`~airflow_workpools.core.jobs.TRANSITIONS`. Statements take sets of jobs, of at most
:data:`~airflow_workpools.store.statements.common.CHUNK` at a time.
"""
