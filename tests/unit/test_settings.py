# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import InvalidInput
from airflow_workpools.provider_info import get_provider_info
from airflow_workpools.settings import PoolSettings, Settings, WorkerSettings


class Options:
    """Airflow's configuration as a dict of what an administrator has set."""

    def __init__(
        self,
        workpools: dict[str, str] | None = None,
        core: dict[str, str] | None = None,
        api: dict[str, str] | None = None,
        scheduler: dict[str, str] | None = None,
    ) -> None:
        self._sections = {
            "workpools": workpools or {},
            "core": core or {},
            "api": api or {},
            "scheduler": scheduler or {},
        }
        self.asked: set[str] = set()

    def get(self, section: str, key: str, *, fallback: str | None = None) -> str | None:
        if section == "workpools":
            self.asked.add(key)
        return self._sections[section].get(key, fallback)


def provider_defaults() -> dict[str, str]:
    options = get_provider_info()["config"]["workpools"]["options"]
    return {name: option["default"] for name, option in options.items()}


def test_without_any_option_the_documented_defaults_hold() -> None:
    settings = Settings.from_airflow(Options({"home": "/srv/workpools"}))

    assert settings == Settings(home=Path("/srv/workpools"))
    assert settings.pools.default_work_queue == WorkQueueRef("default", "default")
    assert settings.pools.start_timeout_seconds == 600


def test_the_defaults_airflow_shows_are_the_defaults_in_the_code() -> None:
    shown = Settings.from_airflow(Options(provider_defaults() | {"home": "/srv"}))

    assert shown == Settings(home=Path("/srv"))


def test_every_option_airflow_shows_is_read_and_no_other() -> None:
    options = Options()

    Settings.from_airflow(options)

    assert options.asked == set(provider_defaults())


@pytest.mark.parametrize(
    ("workpools", "api", "expected"),
    [
        ({}, {}, None),
        ({}, {"base_url": "/airflow"}, None),
        ({}, {"base_url": "http://a:8080"}, "http://a:8080"),
        ({"api_url": "https://b"}, {"base_url": "http://a:8080"}, "https://b"),
    ],
)
def test_the_address_of_the_api_server_is_airflows_own_where_that_is_one(
    workpools: dict[str, str], api: dict[str, str], expected: str | None
) -> None:
    assert Settings.from_airflow(Options(workpools, api=api)).api_url == expected


def test_the_certificates_of_the_api_server_are_airflows_own_option() -> None:
    settings = Settings.from_airflow(Options(api={"ssl_cert": "/etc/ca.pem"}))
    assert settings.api_certificates == "/etc/ca.pem"


def test_every_option_reaches_its_field() -> None:
    settings = Settings.from_airflow(
        Options(
            {
                "home": "~/wp",
                "pools": " etl, ml-gpu ,,etl",
                "default_work_queue": "etl/bulk",
                "pool_refresh_interval": "2.5",
                "reconcile_interval": "7",
                "keep_finished_jobs_days": "9",
                "reserve_after": "0",
                "worker_heartbeat_interval": "20",
                "start_timeout": "90",
                "claim_interval": "0.5",
                "worker_restart_max_delay": "5",
                "drain_timeout": "0",
            },
            core={"parallelism": "64"},
            scheduler={"scheduler_idle_sleep_time": "0.5"},
        )
    )

    assert settings == Settings(
        home=Path("~/wp").expanduser(),
        scheduler_idle_seconds=0.5,
        reconcile_seconds=7,
        keep_finished_jobs_days=9,
        reserve_after=timedelta(0),
        pools=PoolSettings(
            default_work_queue=WorkQueueRef("etl", "bulk"),
            secrets_pools=("etl", "ml-gpu"),
            refresh_seconds=2.5,
            start_timeout_seconds=90,
            builtin_limit=64,
        ),
        worker=WorkerSettings(
            claim_seconds=0.5, heartbeat_seconds=20, restart_max_delay_seconds=5, drain_timeout_seconds=0
        ),
    )


def test_parallelism_zero_means_no_limit_on_the_builtin_pool() -> None:
    assert Settings.from_airflow(Options(core={"parallelism": "0"})).pools.builtin_limit is None


@pytest.mark.parametrize("value", ["0", "none", "None"])
def test_finished_jobs_can_be_kept_for_ever(value: str) -> None:
    assert Settings.from_airflow(Options({"keep_finished_jobs_days": value})).keep_finished_jobs_days is None


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "36501"])
def test_an_age_that_makes_no_sense_is_refused_by_name(value: str) -> None:
    with pytest.raises(
        InvalidInput, match=r"keep_finished_jobs_days must be a whole number of days .* 0 for"
    ):
        Settings.from_airflow(Options({"keep_finished_jobs_days": value}))


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf"])
def test_a_duration_that_makes_no_sense_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Settings.from_airflow(Options({"claim_interval": value}))

    assert str(caught.value) == (
        f"[workpools] claim_interval must be a number of seconds, more than 0, not {value!r}"
    )


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        Settings.from_airflow(
            Options(
                {"claim_interval": "x", "drain_timeout": "-1", "default_work_queue": "a/b/c"},
                core={"parallelism": "many"},
            )
        )

    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for words in ("claim_interval", "drain_timeout", "default_work_queue", "[core] parallelism"):
        assert words in text


def test_only_the_settings_read_our_section() -> None:
    package = Path(__file__).parents[2] / "airflow_workpools"
    asks = re.compile(r"""\.get\w*\(\s*['"]workpools['"]""")
    readers = {path.name for path in package.rglob("*.py") if asks.search(path.read_text())}

    assert readers == set()


def test_a_teams_option_goes_first_and_everybodys_holds_where_it_has_none() -> None:
    everybody = Options({"home": "/srv", "drain_timeout": "5", "claim_interval": "3"})

    settings = Settings.from_airflow(everybody, of_team=Options({"drain_timeout": "120"}))

    assert settings.worker.drain_timeout_seconds == 120
    assert settings.worker.claim_seconds == 3
    assert settings.home == Path("/srv")


def test_what_is_true_of_work_pools_is_true_for_every_team() -> None:
    everybody = Options({"home": "/srv", "default_work_queue": "etl", "pools": "a,b"}, {"multi_team": "True"})
    of_team = Options({"default_work_queue": "own", "pools": "c", "start_timeout": "1"}, {"parallelism": "1"})

    settings = Settings.from_airflow(everybody, of_team=of_team)

    assert settings.pools == Settings.from_airflow(everybody).pools
    assert settings.pools.multi_team


def test_a_teams_option_that_makes_no_sense_is_named() -> None:
    with pytest.raises(InvalidInput, match="drain_timeout"):
        Settings.from_airflow(Options(), of_team=Options({"drain_timeout": "soon"}))
