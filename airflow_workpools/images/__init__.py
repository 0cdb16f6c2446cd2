# SPDX-License-Identifier: Apache-2.0
"""Images that tasks run in: DAG files, requirements and this provider on a base image.

What goes in is decided without an engine (:mod:`~airflow_workpools.images.recipe`,
:mod:`~airflow_workpools.images.context`); :mod:`~airflow_workpools.images.engine` alone talks to one.
"""
