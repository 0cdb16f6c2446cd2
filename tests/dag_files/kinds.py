# SPDX-License-Identifier: Apache-2.0
"""Every kind of task there is, each with a work queue. The work queue wanted is in the tests."""

from __future__ import annotations

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import BranchPythonOperator, ShortCircuitOperator
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, TaskGroup, task, task_group

from airflow_workpools import work_queue


class OwnOperator(BaseOperator):
    def __init__(self, *, question: str, **kwargs):
        super().__init__(**kwargs)
        self.question = question


class OwnSensor(BaseSensorOperator):
    def poke(self, context):
        return True


class OperatorWithItsOwnQueue(BaseOperator):
    """A keyword of the same name that was here before ours, and means something else."""

    template_fields = ("orders",)

    def __init__(self, *, work_queue: str, **kwargs):
        super().__init__(**kwargs)
        self.orders = work_queue


with DAG("kinds", schedule=None):
    BashOperator(task_id="bash", bash_command="true", work_queue="etl/critical")
    EmptyOperator(task_id="empty", work_queue="etl/critical")
    BranchPythonOperator(task_id="branch", python_callable=print, work_queue="etl/critical")
    ShortCircuitOperator(task_id="short_circuit", python_callable=print, work_queue="etl/critical")
    PythonSensor(task_id="sensor", python_callable=print, work_queue="etl/critical")
    OwnOperator(task_id="own_operator", question="?", work_queue="etl/critical")
    OwnSensor(task_id="own_sensor", mode="reschedule", work_queue="etl/critical")
    OwnOperator(task_id="native", question="?", queue="etl/critical")
    OwnOperator(task_id="helper", question="?", **work_queue("etl/critical", image="a:1"))
    OwnOperator(task_id="both", question="?", queue="etl/low", work_queue="etl/critical")
    BashOperator.partial(task_id="mapped", work_queue="etl/critical").expand(bash_command=["a", "b"])
    BashOperator.partial(task_id="mapped_kwargs", work_queue="etl/critical").expand_kwargs([{"env": {}}])
    BashOperator.partial(task_id="mapped_native", queue="etl/critical").expand(bash_command=["a", "b"])
    BashOperator.partial(task_id="mapped_helper", **work_queue("etl/critical", image="a:1")).expand(
        bash_command=["a", "b"]
    )

    OwnOperator(task_id="default_queue", question="?", work_queue="etl")
    BashOperator.partial(task_id="mapped_default_queue", work_queue="etl").expand(bash_command=["a"])
    OwnOperator(task_id="none", question="?", work_queue=None)
    OwnOperator(task_id="unsaid", question="?")
    OperatorWithItsOwnQueue(task_id="own_keyword", work_queue="orders of today")

    @task(work_queue="etl/critical")
    def python(number: int = 1):
        return number

    @task.bash(work_queue="etl/critical")
    def bash_decorated():
        return "true"

    @task.branch(work_queue="etl/critical")
    def branch_decorated():
        return "bash"

    @task.sensor(work_queue="etl/critical")
    def sensor_decorated():
        return True

    @task
    def plain(number: int = 1):
        return number

    python()
    bash_decorated()
    branch_decorated()
    sensor_decorated()
    plain.override(task_id="overridden", work_queue="etl/critical")()
    plain.override(task_id="overridden_native", queue="etl/critical")()
    python.override(task_id="python_mapped").expand(number=[1, 2])
    plain.override(task_id="overridden_mapped", work_queue="etl/critical").expand(number=[1, 2])

    @task.workpool(work_queue="etl/critical", job_variables={"image": "a:1"})
    def workpool(number: int = 1):
        return number

    @task.workpool
    def workpool_bare():
        return 1

    workpool()
    workpool.override(task_id="workpool_overridden", work_queue="etl/low")()
    workpool.override(task_id="workpool_mapped").expand(number=[1, 2])
    workpool_bare()

    @task_group
    def group(number: int):
        python.override(task_id="in_mapped_group")(number)

    group.expand(number=[1, 2])


with DAG("defaults", schedule=None, default_args={"work_queue": "etl/low"}):
    OwnOperator(task_id="from_dag", question="?")
    OwnOperator(task_id="own", question="?", work_queue="etl/critical")
    OwnOperator(task_id="own_native", question="?", queue="etl/critical")
    OwnOperator(task_id="own_helper", question="?", **work_queue("etl/critical"))
    OwnOperator(task_id="none", question="?", work_queue=None)
    BashOperator.partial(task_id="mapped_from_dag").expand(bash_command=["a"])
    BashOperator.partial(task_id="mapped_own", work_queue="etl/critical").expand(bash_command=["a"])
    BashOperator.partial(task_id="mapped_own_native", queue="etl/critical").expand(bash_command=["a"])
    plain()
    plain.override(task_id="plain_mapped").expand(number=[1])
    plain.override(task_id="plain_mapped_native", queue="etl/critical").expand(number=[1])
    with TaskGroup("group", default_args={"work_queue": "etl/high"}):
        OwnOperator(task_id="from_group", question="?")
        BashOperator.partial(task_id="mapped_from_group").expand(bash_command=["a"])
        plain()


with DAG("fields", schedule=None):
    OwnOperator(task_id="own_pool", question="?", work_queue="etl/critical", pool="db")
    OwnOperator(task_id="default_pool", question="?", work_queue="etl/critical", pool="default_pool")
    OwnOperator(task_id="named", question="?", work_queue="etl/critical", executor="wp")
    OwnOperator(task_id="named_class", question="?", work_queue="etl", executor="WorkPoolExecutor")
    OwnOperator(
        task_id="named_path", question="?", work_queue="etl", executor="airflow_workpools.WorkPoolExecutor"
    )
    OwnOperator(task_id="variables", question="?", work_queue="etl", executor_config={"env": {"A": "1"}})
    OwnOperator(task_id="upstream", question="?", work_queue="etl/low", weight_rule="upstream")
    OwnOperator(task_id="absolute", question="?", work_queue="etl/low", weight_rule="absolute")
    BashOperator.partial(task_id="mapped_absolute", work_queue="etl/low", weight_rule="absolute").expand(
        bash_command=["a"]
    )
    BashOperator.partial(task_id="mapped_own_pool", work_queue="etl/critical", pool="db").expand(
        bash_command=["a"]
    )
    BashOperator.partial(task_id="mapped_variables", work_queue="etl", executor_config={"cpu": 2}).expand(
        bash_command=["a"]
    )
    BashOperator.partial(task_id="mapped_named", work_queue="etl", executor="WorkPoolExecutor").expand(
        bash_command=["a"]
    )
    OwnOperator(
        task_id="heavy", question="?", work_queue="etl/low", weight_rule="absolute", priority_weight=7
    )
    OwnOperator(task_id="before", question="?", work_queue="etl/critical", priority_weight=3) >> OwnOperator(
        task_id="after", question="?", work_queue="etl/critical", priority_weight=4
    )
    OwnOperator(task_id="unknown_queue", question="?", work_queue="etl/nowhere", priority_weight=5)
    OwnOperator(task_id="unknown_pool", question="?", work_queue="nowhere", priority_weight=5)
