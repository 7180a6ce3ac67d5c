"""What a cluster would say of a manifest: the JobSet CRD, closed to fields that it does not know; Kubernetes' own
schemas of the Job in it; and the rules of JobSet's webhook, of the CRD and of GKE's volumes, which are in no schema."""

import copy
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

KUBERNETES = "1.34"
REASONS = {"BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"}
ATTRIBUTES = {("gcsfuse.csi.storage.gke.io", name) for name in ("bucketName", "mountOptions")}
"""What the drivers of volumes know, of what templates may give them."""
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
RULE = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")


def read(manifest: str) -> list[dict[str, Any]]:
    return list(yaml.load_all(manifest, yaml.CSafeLoader))


def refusals(documents: list[dict[str, Any]]) -> list[str]:
    """Everything that is wrong with the documents of a manifest, a line each."""
    found = [f"{e.json_path}: {e.message[:200]}" for one in documents for e in _head().iter_errors(one)]
    for document in documents if not found else []:
        found += [f"{e.json_path}: {e.message[:200]}" for e in _validator().iter_errors(document)]
        if not found:
            found += rules(document)
            for job in document["spec"]["replicatedJobs"]:
                found += unlike_kubernetes({"apiVersion": "batch/v1", "kind": "Job", **job["template"]})
    return found


def misspelt(documents: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The documents with one field misspelt, and which: each field once, but for names that a user may choose."""
    for path in _fields(documents):
        wrong = copy.deepcopy(documents)
        within = wrong
        for step in path[:-1]:
            within = within[step]
        within[path[-1] + "x"] = within.pop(path[-1])
        yield ".".join(map(str, path)), wrong


def _fields(part: Any, path: tuple = ()) -> Iterator[tuple]:
    free = path and path[-1] in ("labels", "annotations", "nodeSelector", "selector", "limits")
    if isinstance(part, dict) and not free:
        for name, value in part.items():
            yield (*path, name)
            yield from _fields(value, (*path, name))
    elif isinstance(part, list):
        for number, value in enumerate(part):
            yield from _fields(value, (*path, number))


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    crd = yaml.load((Path(__file__).parent / "jobset-crd.yaml").read_text(), yaml.CSafeLoader)
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1alpha2"]
    return jsonschema.Draft202012Validator(_closed(version["schema"]["openAPIV3Schema"]))


@functools.cache
def _head() -> jsonschema.Draft202012Validator:
    """What is common to all kinds; the CRD leaves metadata to Kubernetes."""
    text = {"type": "string"}
    texts = {"type": "object", "additionalProperties": text}
    fields = {"name": text, "namespace": text, "labels": texts, "annotations": texts}
    metadata = {"properties": fields, "additionalProperties": False, "required": ["name"]}
    fields = {"apiVersion": text, "kind": {"const": "JobSet"}, "metadata": metadata, "spec": {}}
    return jsonschema.Draft202012Validator(
        {"properties": fields, "additionalProperties": False, "required": list(fields)}
    )


def _closed(schema: Any) -> Any:
    """A schema whose objects have no other fields than it names; the CRD names none of metadata."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def unlike_kubernetes(document: dict[str, Any]) -> list[str]:
    """What is wrong with a document of a kind of Kubernetes' own, in a line, or nothing."""
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{document['kind']}: {'.'.join(map(str, error.path))}: {error.message[:200]}"]
    return []


def rules(jobset: dict[str, Any]) -> list[str]:
    """Of `pkg/webhooks/jobset_webhook.go`: `ValidateCreate` and `validateFailurePolicy`; of the CRD: the rules that
    compare fields; of Kubernetes: how long the labels are that JobSet makes."""
    spec, name, found = jobset["spec"], jobset["metadata"]["name"], []
    jobs, seen = spec["replicatedJobs"], set()
    names = [job["name"] for job in jobs]
    found += ["replicatedJobs: names are not unique"] * (len(set(names)) < len(names))
    found += ["dependsOn: not of the first replicatedJob"] * ("dependsOn" in jobs[0])
    in_order = spec.get("startupPolicy", {}).get("startupPolicyOrder") == "InOrder"
    found += ["startupPolicy and dependsOn exclude each other"] * (in_order and any("dependsOn" in j for j in jobs))
    for job in jobs:
        seen.add(job["name"])
        of, replicas = job["template"]["spec"], job.get("replicas", 1)
        longest = f"{name}-{job['name']}-{replicas - 1}"
        made = [longest, job.get("groupName", "default")]
        if of.get("completionMode", "Indexed") == "Indexed" and "completions" in of:
            made.append(f"{longest}-{of['completions'] - 1}-abcde")
        found += [f"{one}: no label of RFC 1035" for one in made if not LABEL.fullmatch(one) or len(one) > 63]
        found += ["too many pods"] * (of.get("parallelism", 1) * replicas > 2**31 - 1)
        found += [f"dependsOn: {d['name']} is not before" for d in job.get("dependsOn", []) if d["name"] not in seen]
        found += [f"{job['name']}: depends on itself" for d in job.get("dependsOn", []) if d["name"] == job["name"]]
        volumes = [volume["csi"] for volume in of["template"]["spec"].get("volumes", []) if "csi" in volume]
        attributes = {(one["driver"], name) for one in volumes for name in one["volumeAttributes"]}
        found += [f"{driver}: no attribute {name}" for driver, name in attributes - ATTRIBUTES]
    policy, success = spec.get("failurePolicy", {}), spec.get("successPolicy", {})
    acts = policy.get("rules", [])
    called = [rule["name"] for rule in acts]
    found += [f"rule {one}: no name" for one in called if not RULE.fullmatch(one) or not 1 <= len(one) <= 128]
    found += ["rules: names are not unique"] * (len(set(called)) < len(called))
    targets = [target for part in (success, *acts) for target in part.get("targetReplicatedJobs", [])]
    found += [f"{target}: no such replicatedJob" for target in targets if target not in names]
    reasons = {reason for rule in acts for reason in rule.get("onJobFailureReasons", [])}
    found += [f"{reason}: no reason of a Job" for reason in reasons - REASONS]
    labels = jobset["metadata"].get("labels", {}).values()
    found += [f"label {one!r}: too long" for one in (name, *labels) if len(one) > 63]
    return found


def action(jobset: dict[str, Any], replicated_job: str, reason: str, message: str) -> str:
    """What JobSet does when a Job fails, as `findFirstFailedPolicyRuleAndJob` of its `failure_policy.go` finds it."""
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        reasons, patterns = rule.get("onJobFailureReasons"), rule.get("onJobFailureMessagePatterns")
        if (
            (not reasons or reason in reasons)
            and (not patterns or any(re.search(pattern, message) for pattern in patterns))
            and replicated_job in rule.get("targetReplicatedJobs", [replicated_job])
        ):
            return rule["action"]
    return "RestartJobSet"


def failure(job: dict[str, Any], pod: dict[str, Any]) -> tuple[str, str]:
    """(reason, message) of a Job's failure by a failed pod, as Kubernetes' `pod_failure_policy.go` finds them. A pod
    has `conditions`, `container` and `code`."""
    for number, rule in enumerate(job["spec"].get("podFailurePolicy", {}).get("rules", [])):
        assert rule["action"] == "FailJob"
        suffix = f"matching FailJob rule at index {number}"
        if codes := rule.get("onExitCodes"):
            assert codes["operator"] == "In" and codes["containerName"] == pod["container"]
            if pod["code"] in codes["values"]:
                said = f"Container {pod['container']} for pod default/x-slice-0-1 failed with exit code {pod['code']}"
                return "PodFailurePolicy", f"{said} {suffix}"
        for condition in rule.get("onPodConditions", []):
            if condition["type"] in pod["conditions"]:
                return "PodFailurePolicy", f"Pod default/x-slice-0-1 has condition {condition['type']} {suffix}"
    return "BackoffLimitExceeded", "Job has reached the specified backoff limit"
