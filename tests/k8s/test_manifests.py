"""What `kubectl kustomize` makes of k8s/: valid to the letter of Kubernetes' schemas, restricted, and true of wisp."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from k8s.rendering import (
    COMPONENTS,
    K8S,
    OVERLAYS,
    REPOSITORY,
    Object,
    named,
    pod_specs,
    render,
    renderer,
    with_component,
)
from wisp.policy.ceilings import Ceilings
from wisp.settings import SETTINGS, Settings
from wisp.telemetry import Metrics

VERSIONS = ("1.31", "1.37")
"""Of Kubernetes: the oldest and the newest that these manifests are for."""
CUSTOM = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("serving.kserve.io/v1beta1", "InferenceService"),
}
"""Kinds that an operator adds to a cluster: Kubernetes has no schema for them."""
ANSWER_S = 5.0
"""What a node takes to end once nothing is in flight."""

pytestmark = pytest.mark.skipif(
    renderer() is None, reason="neither kustomize 5 nor a kubectl that has it is on the PATH"
)


@pytest.fixture(params=[*OVERLAYS, *COMPONENTS], ids=lambda path: f"{path.parent.name}/{path.name}")
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Object, ...]:
    directory: Path = request.param
    return render(directory if directory in OVERLAYS else with_component(directory, tmp_path))


@pytest.fixture(params=OVERLAYS, ids=lambda path: path.name)
def overlay(request: pytest.FixtureRequest) -> tuple[Object, ...]:
    return render(request.param)


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+)(ms|s|m)", text)
    assert match is not None
    return int(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[match[2]]


def environment(container: Object) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", [])}


def wisp_container(objects: tuple[Object, ...]) -> Object:
    (container,) = named(objects, "Deployment", "wisp")["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_for_kubernetes_and_has_no_field_that_it_does_not_know(
    objects: tuple[Object, ...], version: str
) -> None:
    checked = 0
    for each in objects:
        if (each["apiVersion"], each["kind"]) not in CUSTOM:
            kubernetes_validate.validate(each, version, strict=True)
            checked += 1
    assert checked >= 5


def test_the_check_refuses_a_field_that_kubernetes_does_not_know(overlay: tuple[Object, ...]) -> None:
    service = dict(named(overlay, "Service", "wisp"))
    service["spec"] = {**service["spec"], "selectors": {}}
    with pytest.raises(kubernetes_validate.ValidationError, match="selectors"):
        kubernetes_validate.validate(service, VERSIONS[0], strict=True)


def test_examples_are_objects_of_the_kinds_that_they_say() -> None:
    for path in sorted((K8S / "examples").glob("*.yaml")):
        for each in yaml.safe_load_all(path.read_text()):
            assert (each["apiVersion"], each["kind"]) in CUSTOM


def faults_of_restricted(spec: Object) -> list[str]:
    """What the Pod Security Standards' restricted profile forbids, of a pod without host volumes or ports."""
    faults = []
    pod = spec.get("securityContext", {})
    for flag in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(flag):
            faults.append(flag)
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    faults += [
        f"volume {volume['name']}" for volume in spec.get("volumes", []) if not set(volume) - {"name"} <= allowed
    ]
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        own = container.get("securityContext", {})
        context = {**pod, **own}
        if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
            faults.append("runAsNonRoot")
        if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            faults.append("seccompProfile")
        if own.get("allowPrivilegeEscalation") is not False:
            faults.append("allowPrivilegeEscalation")
        if own.get("privileged"):
            faults.append("privileged")
        capabilities = own.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            faults.append("capabilities")
        if any("hostPort" in port for port in container.get("ports", [])):
            faults.append("hostPort")
    return faults


def test_every_pod_is_restricted_and_asks_nothing_of_kubernetes(objects: tuple[Object, ...]) -> None:
    specs = pod_specs(objects)
    assert specs
    for name, spec in specs:
        assert faults_of_restricted(spec) == [], name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"runAsNonRoot": False}, "runAsNonRoot"),
        ({"allowPrivilegeEscalation": True}, "allowPrivilegeEscalation"),
        ({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, "capabilities"),
        ({"seccompProfile": {"type": "Unconfined"}}, "seccompProfile"),
        ({"privileged": True}, "privileged"),
    ],
)
def test_the_check_of_the_restricted_profile_can_fail(overlay: tuple[Object, ...], change: Object, fault: str) -> None:
    ((_, spec),) = pod_specs(overlay)
    container = spec["containers"][0]
    changed = {**container, "securityContext": {**container["securityContext"], **change}}
    assert faults_of_restricted({**spec, "containers": [changed]}) == [fault]


def test_every_setting_exists_and_wisp_accepts_its_value(objects: tuple[Object, ...], tmp_path: Path) -> None:
    container = wisp_container(objects)
    assert container["args"] == ["serve"]
    given = environment(container)
    by_reference = {name: "x" * 32 for name, value in given.items() if not isinstance(value, str)}
    assert {"WISP_OPERATOR_KEY", "WISP_SECRETS_KEY"} <= set(by_reference)
    by_reference["WISP_SECRETS_KEY"] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    by_reference |= {name: "redis://there" for name in ("WISP_REDIS",) if name in by_reference}
    by_reference |= {name: "s3://bucket/prefix" for name in ("WISP_BLOBS",) if name in by_reference}
    plain = {name: value for name, value in given.items() if isinstance(value, str)}
    assert plain["WISP_POLICIES"] in [mount["mountPath"] for mount in container["volumeMounts"]]
    plain["WISP_POLICIES"] = str(tmp_path)
    settings = Settings.load({}, {**plain, **by_reference})
    assert set(given) <= {setting.variable for setting in SETTINGS}
    assert settings.bind.endswith(f":{container['ports'][0]['containerPort']}")
    assert plain["WISP_DATA_DIR"] in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert settings.workers <= int(container["resources"]["limits"]["cpu"])


def test_secrets_stand_nowhere_but_in_references(objects: tuple[Object, ...]) -> None:
    assert not [each for each in objects if each["kind"] == "Secret"]
    for _, spec in pod_specs(objects):
        for container in spec["containers"]:
            for setting in SETTINGS:
                if setting.secret and setting.variable in environment(container):
                    assert not isinstance(environment(container)[setting.variable], str)


def test_a_pod_outlives_its_longest_request(overlay: tuple[Object, ...]) -> None:
    spec = named(overlay, "Deployment", "wisp")["spec"]["template"]["spec"]
    container = spec["containers"][0]
    given = environment(container)
    sleep_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    delay_s, timeout_s = seconds(given["WISP_DRAIN_DELAY"]), seconds(given["WISP_DRAIN_TIMEOUT"])
    longest_s = Ceilings.load(REPOSITORY / "policies").ceiling.limits.timeout / 1e9
    assert timeout_s > longest_s
    assert spec["terminationGracePeriodSeconds"] >= sleep_s + delay_s + timeout_s + ANSWER_S
    # What is told not to send here any more notices before the listener closes.
    readiness = container["readinessProbe"]
    assert sleep_s + delay_s > readiness["periodSeconds"] * readiness["failureThreshold"]


def test_probes_ask_what_wisp_answers(overlay: tuple[Object, ...]) -> None:
    container = wisp_container(overlay)
    asked = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")}
    assert asked == {"startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"}


def test_the_config_map_is_what_policies_holds(overlay: tuple[Object, ...]) -> None:
    documents = {path.name: path.read_text() for path in (REPOSITORY / "policies").glob("*.yaml")}
    del documents["kustomization.yaml"]
    (shown,) = [each for each in overlay if each["kind"] == "ConfigMap"]
    assert shown["metadata"]["name"] == "wisp-policies"
    assert shown["data"] == documents


def test_edge_is_one_small_node_with_its_own_redis_on_a_volume() -> None:
    objects = render(K8S / "overlays" / "edge")
    deployment = named(objects, "Deployment", "wisp")
    container = wisp_container(objects)
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert container["resources"]["requests"] | {"ephemeral-storage": ""} == {
        "cpu": "250m",
        "memory": "512Mi",
        "ephemeral-storage": "",
    }
    assert "WISP_REDIS" not in environment(container)
    volumes = {volume["name"]: volume for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["data"] == {"name": "data", "persistentVolumeClaim": {"claimName": "wisp-data"}}
    assert not {each["kind"] for each in objects} & {"HorizontalPodAutoscaler", "PodDisruptionBudget"}


def test_production_spreads_over_zones_and_keeps_its_state_elsewhere() -> None:
    objects = render(K8S / "overlays" / "production")
    deployment = named(objects, "Deployment", "wisp")
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert {each["topologyKey"]: each["whenUnsatisfiable"] for each in spread}["topology.kubernetes.io/zone"] == (
        "DoNotSchedule"
    )
    given = environment(wisp_container(objects))
    assert set(given["WISP_REDIS"]) == set(given["WISP_BLOBS"]) == {"secretKeyRef"}
    metrics = [each["type"] for each in named(objects, "HorizontalPodAutoscaler", "wisp")["spec"]["metrics"]]
    assert metrics == ["Resource", "Pods"]


def test_nothing_leaves_a_node_but_what_is_named(objects: tuple[Object, ...]) -> None:
    policy = named(objects, "NetworkPolicy", "wisp")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    for rule in (*policy["ingress"], *policy["egress"]):
        assert rule["ports"]


def test_the_metric_of_the_autoscaler_is_one_that_wisp_has() -> None:
    metrics = named(render(K8S / "overlays" / "production"), "HorizontalPodAutoscaler", "wisp")["spec"]["metrics"]
    (name,) = [each["pods"]["metric"]["name"] for each in metrics if each["type"] == "Pods"]
    exposed, _ = Metrics().exposition()
    assert f"# TYPE {name} gauge".encode() in exposed
