# The configuration files and certificates of a local cluster; runs in the folder of its state.
# shellcheck shell=bash disable=SC2154

certificate() { # certificate NAME SUBJECT EXTENSIONS: signed by our own authority
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "pki/$1.key" -subj "$2" -out "pki/$1.csr"
    openssl x509 -req -in "pki/$1.csr" -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 365 \
        -extfile <(printf '%s\n' "$3") -out "pki/$1.crt"
}

write_certificates() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=sluice-local-ca \
        -keyout pki/ca.key -out pki/ca.crt
    certificate apiserver /CN=kube-apiserver "subjectAltName=IP:127.0.0.1,IP:$node_ip,IP:10.96.0.1,DNS:localhost,$(
        printf 'DNS:%s,' kubernetes kubernetes.default kubernetes.default.svc)DNS:kubernetes.default.svc.cluster.local"
    certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client extendedKeyUsage=clientAuth
    certificate front-proxy /CN=front-proxy extendedKeyUsage=clientAuth
    openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out pki/sa.key
    openssl pkey -in pki/sa.key -pubout -out pki/sa.pub
    chmod 600 pki/*.key
}

write_access() {
    local token
    token=$(openssl rand -hex 24)
    (umask 077 && echo "$token,admin,admin,system:masters" >tokens.csv)
    # Self-contained, so that a copy of it works anywhere on this machine.
    (umask 077 && cat >kubeconfig) <<YAML
apiVersion: v1
kind: Config
clusters: [{name: local, cluster: {server: "https://$node_ip:6443", certificate-authority-data: $(base64 -w0 pki/ca.crt)}}]
users: [{name: admin, user: {token: "$token"}}]
contexts: [{name: local, context: {cluster: local, user: admin}}]
current-context: local
YAML
    # Writes by service accounts outside kube-system: tests ask this log who wrote what.
    cat >audit.yaml <<'YAML'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - {level: None, userGroups: ["system:serviceaccounts:kube-system"]}
  - {level: None, verbs: [get, list, watch]}
  - {level: Metadata, userGroups: ["system:serviceaccounts"]}
YAML
}

write_containerd() {
    local snapshotter=overlayfs mirrors=""
    [ "$(stat -f -c %T "$root")" != overlayfs ] || snapshotter=native # overlay does not stack on itself
    [ -z "${SLUICE_REGISTRY_MIRRORS:-}" ] || mirrors="[plugins.\"io.containerd.grpc.v1.cri\".registry]
    config_path = \"$SLUICE_REGISTRY_MIRRORS\""
    cat >containerd.toml <<TOML
version = 2
root = "$root/containerd"
state = "$root/containerd-state"
oom_score = -999
[grpc]
  address = "$root/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$root/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "sluice.local/pause:1"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$root/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  $mirrors
TOML
    # A link for each pod and routes between them: unlike a bridge, that needs no br_netfilter for
    # a Service to work between pods of one node.
    cat >cni/10-pods.conflist <<JSON
{"cniVersion": "1.0.0", "name": "$mark", "plugins": [
  {"type": "ptp", "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$root/ipam", "ranges": [[{"subnet": "$pod_cidr"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
}

write_node() {
    cat >kubelet.yaml <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $node_ip
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
containerRuntimeEndpoint: unix://$root/containerd.sock
clusterDNS: [$dns_ip]
clusterDomain: cluster.local
resolvConf: ""
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $root/pki/ca.crt}}
authorization: {mode: Webhook}
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
podLogsDir: $root/podlogs
volumePluginDir: $root/volume-plugins
maxPods: 500
# Quick answers matter more here than a quiet node: tests wait for each of these.
syncFrequency: 3s
nodeStatusUpdateFrequency: 5s
serializeImagePulls: false
registryPullQPS: 0
eventRecordQPS: 0
kubeAPIQPS: 500
kubeAPIBurst: 1000
YAML
    cat >proxy.yaml <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $root/kubeconfig, qps: 200, burst: 400}
mode: iptables
iptables: {minSyncPeriod: 0s}
clusterCIDR: $pod_cidr
hostnameOverride: node
nodePortAddresses: [$node_ip/32]
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
YAML
}

write_configuration() {
    write_certificates 2>log/certificates.log
    write_access
    write_containerd
    write_node
}
