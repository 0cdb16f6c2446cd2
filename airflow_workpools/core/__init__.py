# SPDX-License-Identifier: Apache-2.0
"""Decisions without I/O: no Airflow, no SQL, no clock."""
