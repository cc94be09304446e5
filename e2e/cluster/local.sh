# What local-up and local-down must agree on.
# shellcheck shell=bash disable=SC2034,SC2154
root=$SLUICE_CLUSTER_DIR
pod_cidr=10.244.0.0/20
service_cidr=10.96.0.0/16
dns_ip=10.96.0.10
node_ip=${SLUICE_NODE_IP:-172.31.255.1}
node_link=${SLUICE_NODE_LINK:-sluice0}
# Told from anything else on this machine by the folder that the cluster's state is in.
mark=sluice-$(sha256sum <<<"$root" | cut -c1-12)
cgroup=$mark
ctr=(ctr --address "$root/containerd.sock" --namespace k8s.io)
# What the kubelet, kube-proxy and local-up change.
sysctls='^(net\.ipv4\.ip_forward|net\.ipv4\.conf\.all\.route_localnet|vm\.overcommit_memory|kernel\.panic|kernel\.panic_on_oops|kernel\.keys\.root_max(keys|bytes))$'

cgroup_roots() { # the folder of each controller (version 1) and of the one tree (version 2)
    awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts
}

started_at() { # when a process began, in ticks since boot; nothing if it has ended
    sed -n 's/.*) //; /^[^ZX]/p' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
}

running() { # running NAME: is the process that local-up began still there, and not another of its number?
    local pid began
    read -r pid began 2>/dev/null <"$root/pids/$1" || return 1
    [ -n "$began" ] && [ "$(started_at "$pid")" = "$began" ]
}

healthy() {
    local name
    for name in containerd etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do
        running $name || return 1
    done
    [ "$("$bin/kubebox" kubectl --kubeconfig "$root/kubeconfig" --request-timeout 5s get node node \
        -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null)" = True ]
}
