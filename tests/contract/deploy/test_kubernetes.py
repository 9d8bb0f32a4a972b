"""deploy/kubernetes: valid against the API's schemas, and in step with the service."""

from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from service.http.server import CLOSE_S
from service.settings import Settings
from service.telemetry import Metrics
from tests.support import ROOT

DIRECTORY = ROOT / "deploy" / "kubernetes"
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((DIRECTORY / "classifier.yaml").read_text(encoding="utf-8")))


def one(kind: str) -> dict[str, Any]:
    [found] = [document for document in DOCUMENTS if document["kind"] == kind]
    return found


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document["kind"]))
def test_schema(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    wrong = {**one("Service"), "spec": {**one("Service")["spec"], "prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def test_everything_selects_the_deployments_pods() -> None:
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert one("Service")["spec"]["selector"] == labels
    assert one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == one("Deployment")["metadata"]["name"]


def test_the_pod_may_do_nothing_that_it_need_not() -> None:
    pod = one("Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["automountServiceAccountToken"] is False
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True and security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]


def test_no_pod_starts_without_the_secret_or_with_variables_of_other_services() -> None:
    pod = one("Deployment")["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "classifier-keys"}}], "not optional"


def test_the_network_policy_admits_callers_to_the_service_only() -> None:
    pod = one("Deployment")["spec"]["template"]
    policy = one("NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    assert policy["policyTypes"] == ["Ingress", "Egress"] and policy["egress"] == []
    [rule] = policy["ingress"]
    [port] = pod["spec"]["containers"][0]["ports"]
    assert rule["ports"] == [{"port": port["name"]}] and all(rule["from"]), "an empty source would be everybody"


def test_stop_leaves_time_to_drain() -> None:
    pod = one("Deployment")["spec"]["template"]["spec"]
    drain_s = Settings.model_fields["drain_s"].default
    wait_s = 5
    assert f"sleep({wait_s})" in pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert pod["terminationGracePeriodSeconds"] > drain_s + CLOSE_S + wait_s


def test_probes_ask_paths_that_the_service_leaves_open() -> None:
    from service.http.middleware import OPEN

    container = one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    asked = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert asked == {"/readyz", "/livez"} and asked <= set(OPEN)


def test_autoscaler_and_adapter_name_a_gauge_of_the_service() -> None:
    gauges = {family.name for family in Metrics().registry.collect() if family.type == "gauge"}
    [metric] = one("HorizontalPodAutoscaler")["spec"]["metrics"]
    adapter = yaml.safe_load((DIRECTORY / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    [rule] = adapter["rules"]["custom"]
    name = metric["pods"]["metric"]["name"]
    assert (
        name in gauges and rule["seriesQuery"].startswith(f'{name}{{job="classifier",') and rule["name"]["as"] == name
    )
    assert 'job="classifier",<<.LabelMatchers>>' in rule["metricsQuery"], "another job may have a metric of this name"
