#!/usr/bin/env bash
# Check the chart without a cluster: lint it, render it with each file in ci/, and hold the result
# against the rules that the chart promises. Needs helm and python3 with PyYAML.
# With a kubeconfig and a namespace where the chart is installed (test.sh --live NAMESPACE), also ask
# the admission policies about every case of tests/admission.yaml.
set -euo pipefail
cd "$(dirname "$0")"
if [ "${1:-}" = --live ]; then
    exec python3 tests/admission.py "${2:?which namespace is the chart installed in?}"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kube=1.35.0

helm lint --strict --quiet --kube-version "$kube" .
for values in ci/*.yaml; do
    helm lint --strict --quiet --kube-version "$kube" --values "$values" .
    helm template sluice . --namespace sluice-system --kube-version "$kube" --values "$values" >"$work/$(basename "$values")"
done
helm template sluice . --namespace sluice-system --kube-version "$kube" --values ci/full.yaml \
    --set podMonitors.enabled=true,podMonitors.labels.release=prometheus >"$work/monitored.yaml"

refused() { # refused TEXT ARGUMENT…: rendering must fail and say TEXT
    local text=$1 said
    shift
    if said=$(helm template sluice . --namespace sluice-system --kube-version "$kube" --values ci/offline.yaml "$@" 2>&1 >/dev/null); then
        echo "accepted, but should be refused: $*" >&2
        exit 1
    fi
    if ! grep -qF -- "$text" <<<"$said"; then
        printf 'the refusal of %s does not say %s:\n%s\n' "$*" "$text" "$said" >&2
        exit 1
    fi
}
refused 'router.splitKeySecret' --set router.splitKeySecret=
refused 'kubectl create secret generic sluice-split-key --namespace sluice-system' --set router.splitKeySecret=
refused 'replica' --set operator.replica=2
refused '/operator/maxRouterReplicas' --set operator.maxRouterReplicas=many
refused '/operator/replicas' --set operator.replicas=two
refused '/router/ports/0' --set 'router.ports[0].name=http,router.ports[0].port=80'
refused '/router/ports/0/targetPort' --set 'router.ports[0].name=http,router.ports[0].port=80,router.ports[0].targetPort=80'
refused 'targetPort 9090' --set 'router.ports[0].name=http,router.ports[0].port=80,router.ports[0].targetPort=9090'
refused '/metricSource/url' --set metricSource.url=prometheus:9090
refused '/metricSource/credentials' --set metricSource.credentials.mount=thanos
refused 'metricSource.credentials.mount: thanos is not among' --set metricSource.url=http://p,metricSource.credentials.mount=thanos,metricSource.credentials.type=BearerToken
refused '/watchNamespaces/0' --set 'watchNamespaces={Team_A}'
refused '/image/pullPolicy' --set image.pullPolicy=Sometimes
refused '/operator/image/digest' --set operator.image.digest=latest
refused 'gateway.create' --set router.enabled=false
refused 'kubeVersion' --kube-version 1.32.0

python3 tests/check.py "$work"
