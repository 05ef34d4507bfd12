"""The file for Kubernetes names fields that the operator knows, and the pinned Ray."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]

META = {"name": str, "namespace": str, "labels": dict, "annotations": dict}
RESOURCES = {"requests": dict, "limits": dict}
CONTAINER = {
    "name": str,
    "image": str,
    "imagePullPolicy": str,
    "command": list,
    "args": list,
    "env": [{"name": str, "value": str, "valueFrom": dict}],
    "ports": [{"containerPort": int, "name": str, "protocol": str}],
    "resources": RESOURCES,
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool, "subPath": str}],
    "lifecycle": dict,
    "securityContext": dict,
}
VOLUME = {
    "name": str,
    "persistentVolumeClaim": {"claimName": str, "readOnly": bool},
    "emptyDir": {"medium": str, "sizeLimit": str},
    "configMap": dict,
    "secret": dict,
    "hostPath": dict,
}
POD = {
    "containers": [CONTAINER],
    "initContainers": [CONTAINER],
    "volumes": [VOLUME],
    "nodeSelector": dict,
    "tolerations": [{"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}],
    "affinity": dict,
    "serviceAccountName": str,
    "terminationGracePeriodSeconds": int,
    "restartPolicy": str,
}
TEMPLATE = {"metadata": META, "spec": POD}
CLUSTER: Mapping[str, Any] = {
    "apiVersion": str,
    "kind": str,
    "metadata": META,
    "spec": {
        "rayVersion": str,
        "enableInTreeAutoscaling": bool,
        "autoscalerOptions": dict,
        "headServiceAnnotations": dict,
        "suspend": bool,
        "headGroupSpec": {
            "serviceType": str,
            "headService": dict,
            "enableIngress": bool,
            "rayStartParams": dict,
            "template": TEMPLATE,
        },
        "workerGroupSpecs": [
            {
                "groupName": str,
                "replicas": int,
                "minReplicas": int,
                "maxReplicas": int,
                "numOfHosts": int,
                "rayStartParams": dict,
                "template": TEMPLATE,
                "scaleStrategy": dict,
            }
        ],
    },
}
"""The fields of `ray.io/v1` RayCluster (KubeRay's raycluster_types.go) and of a pod, as far as a file may need them."""
REQUIRED = {"spec.headGroupSpec.rayStartParams", "spec.headGroupSpec.template", "metadata.name"}
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


def faults(value: Any, known: Any, where: str = "") -> list[str]:
    """Fields that are not known, and values of another type."""
    if isinstance(known, list):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [fault for number, item in enumerate(value) for fault in faults(item, known[0], f"{where}[{number}]")]
    if isinstance(known, Mapping):
        if not isinstance(value, dict):
            return [f"{where} is no mapping"]
        unknown = [f"{where}.{name} is unknown" for name in value if name not in known]
        inner = (
            fault for name in value if name in known for fault in faults(value[name], known[name], f"{where}.{name}")
        )
        return [*unknown, *inner]
    return [] if isinstance(value, known) and (known is not int or type(value) is int) else [f"{where} is no {known}"]


def at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value[name]
    return value


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "raycluster.yaml").read_text(encoding="utf-8"))
    return body


def test_it_holds_known_fields_alone_and_those_that_must_be_there(cluster: dict[str, Any]) -> None:
    assert faults(cluster, CLUSTER) == []
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert all(at(cluster, path) is not None for path in REQUIRED)
    names = [group["groupName"] for group in cluster["spec"]["workerGroupSpecs"]]
    assert len(names) == len(set(names)) > 0
    for group in cluster["spec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_wrong_fields_are_seen(cluster: dict[str, Any]) -> None:
    spec = cluster["spec"]
    assert faults({**cluster, "spec": {**spec, "rayversion": "2"}}, CLUSTER) == [".spec.rayversion is unknown"]
    assert faults({**cluster, "spec": {**spec, "workerGroupSpecs": [{"replicas": "8"}]}}, CLUSTER)
    assert faults({**cluster, "spec": {**spec, "headGroupSpec": []}}, CLUSTER) == [".spec.headGroupSpec is no mapping"]


def test_pods_mount_volumes_that_they_have_and_ask_for_quantities(cluster: dict[str, Any]) -> None:
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    images = set()
    for pod in (group["template"]["spec"] for group in groups):
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            images.add(container["image"])
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
            for quantities in container["resources"].values():
                assert all(QUANTITY.fullmatch(text) for text in quantities.values())
            assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys()
    assert len(images) == 1, "head and workers run one image"
    gpus = [group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for group in groups]
    assert gpus[0] is None
    assert all(gpus[1:])


def test_its_ray_is_the_pinned_one(cluster: dict[str, Any]) -> None:
    pinned = re.findall(r"^ray==([\d.]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert [cluster["spec"]["rayVersion"]] == pinned
    assert f"rayproject/ray:{pinned[0]}-" in (ROOT / "examples" / "raycluster.yaml").read_text(encoding="utf-8")


def test_rays_start_command_knows_its_parameters(cluster: dict[str, Any]) -> None:
    scripts = pytest.importorskip("ray.scripts.scripts")
    known = {name for parameter in scripts.start.params for name in parameter.opts}
    for group in [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert {f"--{name}" for name in group["rayStartParams"]} <= known
