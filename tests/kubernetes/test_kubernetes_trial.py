# SPDX-License-Identifier: Apache-2.0
"""The Test button of a pool: a dry run tells what the cluster would say to its jobs, and leaves nothing behind."""

from __future__ import annotations

import base64
import copy
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from airflow_workpools.hooks import WorkPoolHook
from airflow_workpools.infrastructure.registry import default_template
from tests.engines import Certificates
from tests.kubernetes.cluster import IMAGE, KubernetesPlatform, eventually
from tests.kubernetes.test_kubernetes_rights import bind, documented

pytestmark = pytest.mark.kubernetes


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[KubernetesPlatform]:
    with KubernetesPlatform(tmp_path) as platform:
        yield platform
        assert platform.jobs() == []
        assert platform.secrets() == []


class Pool:
    """A pool whose definition stands in the environment."""

    def __init__(self, platform: KubernetesPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
        self.platform = platform
        self._monkeypatch = monkeypatch

    def test(
        self, *, connection: Mapping[str, Any] | None = None, template: Any = None, **variables: Any
    ) -> tuple[bool, str]:
        """Push its Test button."""
        definition = {
            "type": "kubernetes",
            "infrastructure_conn_id": "the_cluster",
            "job_variables": {"image": IMAGE, **variables},
        }
        if template is not None:
            definition["base_job_template"] = template
        self._connect("THE_CLUSTER", self.platform.connection(**(connection or {})))
        self._connect("ETL", {"conn_type": "workpool", "extra": definition})
        return WorkPoolHook("etl").test_connection()

    def refusal(self, **options: Any) -> str:
        """Push its Test button, and return why no job would be taken."""
        ok, message = self.test(**options)
        assert not ok
        before = (
            "The definition is valid and kubernetes answers, but it would not take a job with the pool's "
            "defaults: "
        )
        assert message.startswith(before)
        return message.removeprefix(before)

    def _connect(self, name: str, fields: Mapping[str, Any]) -> None:
        given = {key: value for key, value in fields.items() if key != "conn_id"}
        self._monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(given))


@pytest.fixture
def pool(platform: KubernetesPlatform, monkeypatch: pytest.MonkeyPatch) -> Pool:
    return Pool(platform, monkeypatch)


def test_with_the_documented_rights_a_job_is_tried_and_nothing_is_left(pool: Pool) -> None:
    bind(pool.platform, documented()[0])
    assert pool.test(connection={"cluster_context": "restricted"}) == (
        True,
        "The definition is valid and kubernetes answers. By a dry run, it would take a job with the pool's defaults "
        f"in namespace {pool.platform.namespace}.",
    )


@pytest.mark.parametrize("resource", ["jobs", "pods", "secrets"])
def test_a_right_that_is_missing_is_quoted_before_any_task_runs(pool: Pool, resource: str) -> None:
    role, _ = documented()
    role["rules"] = [rule for rule in role["rules"] if rule["resources"] != [resource]]
    bind(pool.platform, role)
    told = pool.refusal(connection={"cluster_context": "restricted"})
    assert (
        f'User "restricted" cannot {"list" if resource == "pods" else "create"} resource "{resource}"' in told
    )
    assert "docs/kubernetes.md" in told


def test_an_amount_that_does_not_fit_is_told_with_its_field(pool: Pool) -> None:
    told = pool.refusal(memory_request="2Gi", memory_limit="1Gi")
    assert "spec.template.spec.containers[0].resources.requests" in told
    assert "must be less than or equal to memory limit" in told


def test_a_manifest_that_the_api_does_not_take_is_told_with_its_field(pool: Pool) -> None:
    template = copy.deepcopy(default_template("kubernetes").to_json())
    pod = template["job_configuration"]["manifest"]["spec"]["template"]["spec"]
    pod["containers"][0]["volumeMounts"] = [{"name": "no-such-volume", "mountPath": "/data"}]
    told = pool.refusal(template=template)
    assert 'spec.template.spec.containers[0].volumeMounts[0].name: Not found: "no-such-volume"' in told


def test_a_namespace_that_is_not_there_is_named(pool: Pool) -> None:
    assert 'namespaces "no-such-namespace" not found' in pool.refusal(namespace="no-such-namespace")


def test_a_quota_that_leaves_no_room_is_quoted(pool: Pool) -> None:
    pool.platform.restrict_quota({"count/jobs.batch": "0"})
    assert "exceeded quota: few, requested: count/jobs.batch=1" in pool.refusal()


def test_where_tasks_have_to_give_more_no_job_is_tried(pool: Pool) -> None:
    template = copy.deepcopy(default_template("kubernetes").to_json())
    template["variables"]["required"] = ["image", "team"]
    template["variables"]["properties"]["team"] = {"type": "string"}
    assert pool.test(template=template, memory_request="2Gi", memory_limit="1Gi") == (
        True,
        "The definition is valid and kubernetes answers. No job was tried, since tasks have to give what is required "
        "and has no default: team.",
    )


# The API server of a cluster elsewhere can't ask a webhook here.
@pytest.mark.breakable_kubernetes
def test_what_a_webhook_says_against_a_job_is_quoted(pool: Pool, tmp_path: Path) -> None:
    with refusing_webhook(pool.platform, tmp_path, says="jobs need a label team") as asked:
        told = eventually(lambda: None if (answer := pool.test())[0] else answer[1])
    assert 'admission webhook "team.workpools.example.com" denied the request: jobs need a label team' in told
    assert all(review["request"]["dryRun"] for review in asked)


@contextmanager
def refusing_webhook(
    platform: KubernetesPlatform, folder: Path, *, says: str
) -> Iterator[list[Mapping[str, Any]]]:
    """Refuse all Jobs of a platform's namespace; yield what the API server asked."""
    asked: list[Mapping[str, Any]] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(review)
            response = {"uid": review["request"]["uid"], "allowed": False, "status": {"message": says}}
            body = json.dumps({**review, "response": response}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    certificates = Certificates(folder)
    certificates.make()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    registrations = client.AdmissionregistrationV1Api(platform.api)
    try:
        registrations.create_validating_webhook_configuration(_webhook(platform, server.server_port, folder))
        yield asked
    finally:
        registrations.delete_validating_webhook_configuration(platform.namespace)
        server.shutdown()
        serving.join()
        server.server_close()


def _webhook(platform: KubernetesPlatform, port: int, folder: Path) -> dict[str, Any]:
    """Return a registration that holds for a platform's namespace only, whose label it gives it."""
    labels = {"workpools-test": platform.namespace}
    platform.core.patch_namespace(platform.namespace, {"metadata": {"labels": labels}})
    webhook = {
        "name": "team.workpools.example.com",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "namespaceSelector": {"matchLabels": labels},
        "clientConfig": {
            "url": f"https://127.0.0.1:{port}/",
            "caBundle": base64.b64encode((folder / "ca.pem").read_bytes()).decode(),
        },
        "rules": [
            {"apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["jobs"], "operations": ["CREATE"]}
        ],
    }
    return {"metadata": {"name": platform.namespace}, "webhooks": [webhook]}
