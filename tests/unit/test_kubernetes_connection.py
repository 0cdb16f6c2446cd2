# SPDX-License-Identifier: Apache-2.0
"""Where the cluster is and how to log in. Nothing here asks a cluster."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import certifi
import pytest

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.kubernetes import KubernetesInfrastructure, connection
from airflow_workpools.infrastructure.kubernetes.connection import Cluster, find_cluster
from airflow_workpools.infrastructure.kubernetes.namespaces_used import NamespacesUsed


def kubeconfig(*, namespace: str | None = None) -> dict[str, Any]:
    contexts = {"one": "https://one.example.com", "two": "https://two.example.com"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": name, "cluster": {"server": server}} for name, server in contexts.items()],
        "users": [{"name": "me", "user": {"token": "t0ken"}}],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": "me", "namespace": namespace}}
            for name in contexts
        ],
    }


@pytest.fixture(autouse=True)
def _no_cluster_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))


def given(**extra: Any) -> Mapping[str, Any]:
    return {"conn_id": "prod", "conn_type": "kubernetes", "extra": extra}


def find(fields: Mapping[str, Any] | None) -> Cluster:
    return asyncio.run(find_cluster(fields))


def problem_of(fields: Mapping[str, Any] | None) -> str:
    with pytest.raises(InfrastructureUnavailable) as problem:
        find(fields)
    return str(problem.value)


class TestAConnection:
    @pytest.mark.parametrize("as_text", [True, False])
    def test_has_a_kubeconfig(self, as_text: bool) -> None:
        config = kubeconfig(namespace="jobs")
        cluster = find(given(kube_config=json.dumps(config) if as_text else config))
        assert (cluster.client.host, cluster.namespace) == ("https://one.example.com", "jobs")

    def test_names_a_kubeconfig(self, tmp_path: Path) -> None:
        path = tmp_path / "config"
        path.write_text(json.dumps(kubeconfig()))
        cluster = find(given(kube_config_path=str(path), cluster_context="two", namespace="etl"))
        assert (cluster.client.host, cluster.namespace) == ("https://two.example.com", "etl")

    def test_leaves_the_choice_to_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "config"
        path.write_text(json.dumps(kubeconfig(namespace="jobs")))
        monkeypatch.setenv("KUBECONFIG", str(path))
        assert find(None).namespace == "jobs"
        assert find(given(namespace="etl")).client.host == "https://one.example.com"

    def test_may_have_fields_under_their_long_names(self) -> None:
        cluster = find(given(extra__kubernetes__kube_config=json.dumps(kubeconfig())))
        assert cluster.client.host == "https://one.example.com"

    def test_may_trust_any_certificate(self) -> None:
        assert find(given(kube_config=kubeconfig())).client.verify_ssl
        assert not find(given(kube_config=kubeconfig(), disable_verify_ssl=True)).client.verify_ssl


class TestProblems:
    def test_a_context_that_does_not_exist_is_named(self) -> None:
        problem = problem_of(given(kube_config=kubeconfig(), cluster_context="three"))
        assert "connection 'prod'" in problem
        assert "three" in problem

    def test_a_file_that_does_not_exist_is_named(self, tmp_path: Path) -> None:
        assert str(tmp_path / "x") in problem_of(given(kube_config_path=str(tmp_path / "x")))
        assert "nowhere" in problem_of(None)

    @pytest.mark.parametrize("text", ["{", "[]", "apiVersion: v1", "\x00"])
    def test_a_kubeconfig_that_is_none_is_a_problem_of_the_connection(self, text: str) -> None:
        assert "connection 'prod' (its kube_config) can't be used: " in problem_of(given(kube_config=text))

    def test_the_file_of_the_environment_that_is_broken_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "broken"
        path.write_text("not: [a kubeconfig")
        monkeypatch.setenv("KUBECONFIG", str(path))
        assert str(path) in problem_of(None)

    def test_two_places_at_once_are_one_too_many(self) -> None:
        assert "mutually exclusive" in problem_of(given(kube_config=kubeconfig(), in_cluster=True))

    def test_being_in_no_pod_is_a_problem_if_it_should_be_one(self) -> None:
        assert "connection 'prod'" in problem_of(given(in_cluster=True))

    def test_another_type_of_connection_is_named(self) -> None:
        assert "'postgres'" in problem_of({"conn_id": "db", "conn_type": "postgres", "extra": {}})

    @pytest.mark.parametrize(
        ("module", "fields"),
        [
            ("kubernetes_asyncio", None),
            ("airflow.providers.cncf.kubernetes.hooks.kubernetes", given(namespace="x")),
        ],
    )
    def test_what_is_not_installed_names_the_extra(
        self, module: str, fields: Mapping[str, Any] | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        assert 'pip install "airflow-provider-workpools[kubernetes]"' in problem_of(fields)

    def test_a_cluster_that_does_not_answer_is_named(self, tmp_path: Path) -> None:
        config = kubeconfig()
        config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
        worker = KubernetesInfrastructure(home=tmp_path, connection=given(kube_config=config))
        with pytest.raises(InfrastructureUnavailable, match=r"http://127\.0\.0\.1:1 does not answer"):
            asyncio.run(worker.open())


class TestInAPod:
    @pytest.fixture
    def account(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Have the service account that a pod has."""
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
        monkeypatch.setattr(connection, "_SERVICE_ACCOUNT", tmp_path)
        for name, text in (
            ("token", "t0ken"),
            ("ca.crt", Path(certifi.where()).read_text()),
            ("namespace", "airflow\n"),
        ):
            (tmp_path / name).write_text(text)
        for name, file in (("TOKEN", "token"), ("CERT", "ca.crt")):
            monkeypatch.setattr(
                f"kubernetes_asyncio.config.incluster_config.SERVICE_{name}_FILENAME", str(tmp_path / file)
            )
        return tmp_path

    @pytest.mark.parametrize("fields", [None, given()])
    def test_its_service_account_is_used(self, account: Path, fields: Mapping[str, Any] | None) -> None:
        cluster = find(fields)
        assert (cluster.client.host, cluster.namespace) == ("https://10.0.0.1:443", "airflow")

    def test_a_kubeconfig_goes_first(self, account: Path) -> None:
        assert find(given(kube_config=kubeconfig())).client.host == "https://one.example.com"


def test_namespaces_are_written_down_once(tmp_path: Path) -> None:
    used = NamespacesUsed(tmp_path / "kubernetes" / "prod.namespaces")
    assert used.read() == frozenset()
    for namespace in ("etl", "ml", "etl"):
        used.add(namespace)
    assert used.path.read_text() == "etl\nml\n"
    assert NamespacesUsed(used.path).read() == {"etl", "ml"}


def test_a_home_that_can_not_be_written_costs_a_line_in_the_log_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    NamespacesUsed(tmp_path / "file" / "x").add("etl")
