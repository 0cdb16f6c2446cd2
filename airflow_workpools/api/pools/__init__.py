# SPDX-License-Identifier: Apache-2.0
"""HTTP on the API server for people: what Airflow's UI and automation ask of work pools, and change in them."""
