# SPDX-License-Identifier: Apache-2.0
"""Nothing: the provider is the package ``airflow_workpools``.

Airflow looks for a provider's example DAGs in a module that is named like the distribution, and logs an error with a
traceback in every one of its processes where there is none (``DagBundlesManager``; apache/airflow#66305).
"""
