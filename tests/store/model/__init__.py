# SPDX-License-Identifier: Apache-2.0
"""A world around the store for :mod:`tests.store.test_model`: Airflow, schedulers, workers, and what really runs."""
