#!/usr/bin/env python3
"""Hold rendered manifests against what the chart promises. Usage: check.py FOLDER, one file a case."""

import json
import pathlib
import sys

import yaml

wrong = []


def expect(truth, text):
    if not truth:
        wrong.append(text)


def rules_of(objects):
    for item in objects:
        for rule in item.get("rules", []) if item["kind"] in ("Role", "ClusterRole") else []:
            yield item, rule


def no_secrets(case, objects):
    for item, rule in rules_of(objects):
        where = f"{case}: {item['kind']} {item['metadata']['name']}"
        named = rule["apiGroups"] + rule["resources"] + rule["verbs"]
        expect("*" not in named, f"{where} has a wildcard")
        expect(not any(name.split("/")[0] == "secrets" for name in rule["resources"]), f"{where} names secrets")
        rights = {"roles", "clusterroles", "rolebindings", "clusterrolebindings", "serviceaccounts/token", "pods/exec"}
        expect(not rights & set(rule["resources"]), f"{where} could widen its own rights")


def restricted(case, objects):
    """The restricted Pod Security Standard, and a read-only root."""
    for item in objects:
        if item["kind"] != "Deployment":
            continue
        where = f"{case}: {item['metadata']['name']}"
        pod = item["spec"]["template"]["spec"]
        security = pod["securityContext"]
        expect(security.get("runAsNonRoot") is True, f"{where} may run as root")
        expect(security.get("runAsUser") == 65532, f"{where} runs as another user than 65532")
        expect(security.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{where} has no seccomp profile")
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            expect(not pod.get(field), f"{where} has {field}")
        expect(not any("hostPath" in volume for volume in pod["volumes"]), f"{where} has a hostPath volume")
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container.get("securityContext", {})
            expect(context.get("allowPrivilegeEscalation") is False, f"{where} allows escalation")
            expect(context.get("readOnlyRootFilesystem") is True, f"{where} has a writable root")
            expect(context.get("capabilities") == {"drop": ["ALL"]}, f"{where} keeps capabilities")
            expect(not any("hostPort" in port for port in container["ports"]), f"{where} has a hostPort")
            expect("limits" in container["resources"], f"{where} has no limits")
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            expect(mounts == {volume["name"] for volume in pod["volumes"]}, f"{where} mounts not what it has")


def bound_cluster_roles(objects):
    bound = {item["roleRef"]["name"] for item in objects if item["kind"] == "ClusterRoleBinding"}
    return [item for item in objects if item["kind"] == "ClusterRole" and item["metadata"]["name"] in bound]


def whole(case, objects):
    names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects]
    expect(len(names) == len(set(names)), f"{case}: an object occurs twice")
    kinds = {(item["apiVersion"].split("/")[0], item["kind"]) for item in objects}
    own = {kind for group, kind in kinds if group in ("sluice.dev", "gateway.networking.k8s.io")}
    expect(not own, f"{case}: {own} cannot be applied in one pass with their definitions")
    hooks = [n for n, item in zip(names, objects) if "helm.sh/hook" in item["metadata"].get("annotations", {})]
    expect(not hooks, f"{case}: hooks can hang: {hooks}")
    for item in objects:
        where = f"{case}: {item['kind']} {item['metadata']['name']}"
        expect("finalizers" not in item["metadata"], f"{where} has a finalizer")
        if item["kind"] == "CustomResourceDefinition":
            kept = item["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
            expect(kept == "keep", f"{where} is not kept")
    accounts = {name for kind, _, name in names if kind == "ServiceAccount"}
    for item in objects:
        if item["kind"] == "Deployment":
            account = item["spec"]["template"]["spec"]["serviceAccountName"]
            expect(account in accounts, f"{case}: there is no ServiceAccount {account}")


def defaults(objects):
    data = next(item["data"] for item in objects if item["kind"] == "ConfigMap")
    return {manifest["kind"]: manifest for manifest in map(json.loads, data.values())}


def args(objects, name):
    pod = next(i for i in objects if i["kind"] == "Deployment" and i["metadata"]["name"] == name)["spec"]["template"]["spec"]
    return pod["containers"][0]["args"], pod


def offline(objects):
    modeldeployments = [rule for _, rule in rules_of(bound_cluster_roles(objects)) if "modeldeployments" in rule["resources"]]
    expect(len(modeldeployments) == 1, "offline: the operator reads ModelDeployments of all namespaces")
    expect(set(defaults(objects)) == {"GatewayClass", "Gateway"}, "offline: defaults are a GatewayClass and a Gateway")
    expect("--router-replicas=2" in args(objects, "sluice-operator")[0], "offline: not every router's judging is allowed for")
    expect(not any(item["kind"] in ("Secret", "PodMonitor", "NetworkPolicy") for item in objects), "offline: more than asked for")


def full(objects):
    made = defaults(objects)
    source = made["MetricSource"]
    definition = next(i for i in objects if i["kind"] == "CustomResourceDefinition" and i["spec"]["names"]["kind"] == "MetricSource")
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    expect(set(source["spec"]) == set(schema), f"full: fields that values and MetricSource do not share: {set(source['spec']) ^ set(schema)}")
    expect(source["metadata"]["name"] == "default", "full: the MetricSource is not called default")
    expect(source["spec"]["credentials"] == {"type": "BearerToken", "mount": "thanos"}, "full: credentials got lost")
    expect([l["port"] for l in made["Gateway"]["spec"]["listeners"]] == [80, 8000], "full: listeners are not the ports")
    flags, pod = args(objects, "sluice-operator")
    for flag in ("--lease-duration=4s", "--image-pull-secret=regcred", "--default-gateway=sluice-system/models",
                 "--inference-image=registry.example.com/ml/sluice-inference-pod:v9", "--cluster-domain=example.local",
                 "--kubeconfig=/etc/extra/kubeconfig", "--router-replicas=8"):
        expect(flag in flags, f"full: the operator lacks {flag}")
    tokens = {v["name"]: v["projected"]["sources"][0]["serviceAccountToken"] for v in pod["volumes"] if "projected" in v}
    mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    token = f"--router-token={mounts['router-token']}/{tokens['router-token']['path']}"
    expect(token in flags and tokens["router-token"]["audience"] == "sluice-router", "full: routers would not know the operator")
    expect("@sha256:" in pod["containers"][0]["image"], "full: the digest got lost")
    flags, pod = args(objects, "sluice-router")
    expect("--listen=8000=0.0.0.0:8001" in flags, "full: the router lacks a listener")
    folders = {m["mountPath"] for m in pod["containers"][0]["volumeMounts"] for v in pod["volumes"] if v["name"] == m["name"] and "emptyDir" in v}
    state = [flag.removeprefix("--state-dir=") for flag in flags if flag.startswith("--state-dir=")]
    expect(set(state) == folders and state, "full: the router forgets what it took out when it restarts")
    expect(pod["terminationGracePeriodSeconds"] > 130, "full: the router is killed while it drains")
    expect(pod["containers"][0]["image"] == "other.example.com/router:v10", "full: the router's image is wrong")


def namespaced(objects):
    for item, rule in rules_of(bound_cluster_roles(objects)):
        allowed = {"metricsources", "gatewayclasses", "gatewayclasses/status", "namespaces", "tokenreviews"}
        extra = set(rule["resources"]) - allowed
        expect(not extra, f"namespaced: ClusterRole {item['metadata']['name']} holds {extra}")
    held = {item["metadata"]["namespace"] for item, rule in rules_of(objects) if item["kind"] == "Role" and "modeldeployments" in rule["resources"]}
    expect(held == {"team-a", "team-b"}, f"namespaced: Roles for ModelDeployments are in {held}")
    flags, _ = args(objects, "sluice-operator")
    expect([f for f in flags if "watch" in f] == ["--watch-namespace=team-a", "--watch-namespace=team-b"], "namespaced: the operator watches others")
    flags, _ = args(objects, "sluice-router")
    expect("--watch-namespace=sluice-system" in flags, "namespaced: the router does not see the chart's Gateway")


def other_gateway(objects):
    flags, _ = args(objects, "sluice-operator")
    expect("--default-gateway=istio-ingress/public" in flags, "other-gateway: the Gateway is not named")
    expect(not any("router" in flag for flag in flags), "other-gateway: the operator looks for a router")
    rest = {item["kind"] for item in objects} & {"CustomResourceDefinition", "ValidatingAdmissionPolicy", "Service"}
    expect(not rest, f"other-gateway: {rest} should not be there")


def monitored(objects):
    monitors = {i["metadata"]["name"]: i["spec"] for i in objects if i["kind"] == "PodMonitor"}
    expect(set(monitors) == {"sluice-operator", "sluice-router", "sluice-inference-pods"}, f"monitored: {set(monitors)}")
    expect(all(m["podMetricsEndpoints"][0]["honorLabels"] for m in monitors.values()), "monitored: labels get overwritten")


CASES = {"offline": offline, "full": full, "namespaced": namespaced, "other-gateway": other_gateway, "monitored": monitored}


def main():
    folder = pathlib.Path(sys.argv[1])
    for case, own in CASES.items():
        objects = [o for o in yaml.safe_load_all((folder / f"{case}.yaml").read_text()) if o]
        for check in (no_secrets, restricted, whole):
            check(case, objects)
        own(objects)
    missing = {path.stem for path in folder.glob("*.yaml")} - set(CASES)
    expect(not missing, f"nothing is checked about {missing}")
    print("\n".join(wrong) or f"the chart holds its promises in {len(CASES)} cases")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
