#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A control plane by hand: the programs of the image, keys made beforehand, configuration that never changes, everything
# as root and as early as it can be of use. Nothing of Basalt's agent, its units or cloud-init takes part.

disk=/dev/vdb                 # a tar archive: etc/kubernetes, etc/cni
ip=10.0.2.15                  # what QEMU's network gives the first card
pki=/etc/kubernetes/pki
cgroup=/sys/fs/cgroup/system.slice/baseline.service

export PATH=/usr/sbin:/usr/bin HOME=/root
unset GOGC BASALT_START_HEAP  # the image's choices for Basalt's services, not those of somebody who starts by hand

mkdir -p /root /tmp /var/log
tar -xf $disk -C /
echo +cpu +memory +io +pids >$cgroup/cgroup.subtree_control

exec 9<> <(:)                 # a pipe that never has anything to read:
pause() { read -rt "${1:-0.1}" -u 9; } # a sleep that starts no process

# start NAME COMMAND...   in a cgroup of its own, which tells its memory; once more when it ends
start() {
    local name=$1
    shift
    mkdir $cgroup/$name
    while :; do
        (echo 0 >$cgroup/$name/cgroup.procs && exec "$@") &>>/var/log/$name.log
        pause 2
    done &
}

start etcd etcd \
    --name=node-1 --data-dir=/var/lib/etcd \
    --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
    --listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380 \
    --initial-cluster=node-1=http://127.0.0.1:2380

# It asks again until etcd answers.
start kube-apiserver kube-apiserver \
    --advertise-address=$ip --etcd-servers=http://127.0.0.1:2379 --service-cluster-ip-range=10.152.183.0/24 \
    --allow-privileged=true --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --client-ca-file=$pki/ca.crt --tls-cert-file=$pki/apiserver.crt --tls-private-key-file=$pki/apiserver.key \
    --kubelet-client-certificate=$pki/admin.crt --kubelet-client-key=$pki/admin.key \
    --kubelet-certificate-authority=$pki/ca.crt \
    --requestheader-client-ca-file=$pki/front-proxy-ca.crt --requestheader-allowed-names=front-proxy-client \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file=$pki/front-proxy-client.crt --proxy-client-key-file=$pki/front-proxy-client.key \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file=$pki/sa.pub --service-account-signing-key-file=$pki/sa.key

start containerd containerd --config /usr/share/containerd/config.toml
until [ -S /run/containerd/containerd.sock ] && /usr/lib/basalt/import-images; do pause; done &

ip link add basalt-dns type dummy
ip address add 10.152.183.10/32 dev basalt-dns
ip link set basalt-dns up

# The port is open long before anybody answers; one question waits there until the API server begins to.
readyz() { printf 'GET /readyz HTTP/1.0\r\n\r\n' | openssl s_client -quiet -connect 127.0.0.1:6443 2>/dev/null; }
until : >/dev/tcp/127.0.0.1/6443; do pause; done 2>/dev/null
readyz >/dev/null

# These ask again and again for what they may not see yet, and have most of their own start behind them until then.
start kubelet kubelet \
    --config=/etc/kubernetes/kubelet.json --kubeconfig=/etc/kubernetes/kubelet.kubeconfig \
    --hostname-override=node-1 --node-ip=$ip
start kube-scheduler kube-scheduler \
    --kubeconfig=/etc/kubernetes/scheduler.kubeconfig --bind-address=127.0.0.1 --leader-elect=false \
    --authentication-skip-lookup=true
start kube-proxy kube-proxy --config=/etc/kubernetes/kube-proxy.json
start coredns coredns -conf /etc/kubernetes/Corefile

# The controller manager gives up after ten seconds when the API server is not ready.
until [[ $(readyz) == "HTTP/1.0 200"* ]]; do pause 0.5; done
start kube-controller-manager kube-controller-manager \
    --kubeconfig=/etc/kubernetes/controller-manager.kubeconfig --bind-address=127.0.0.1 --leader-elect=false \
    --authentication-skip-lookup=true --allocate-node-cidrs=true --cluster-cidr=10.1.0.0/16 \
    --service-cluster-ip-range=10.152.183.0/24 --use-service-account-credentials=true \
    --cluster-signing-cert-file=$pki/ca.crt --cluster-signing-key-file=$pki/ca.key --root-ca-file=$pki/ca.crt \
    --service-account-private-key-file=$pki/sa.key --flex-volume-plugin-dir=/var/lib/kubelet/volumeplugins

# flanneld ends as long as the controller manager has not given the node its pod network, and starts again.
start flanneld env NODE_NAME=node-1 flanneld \
    --kube-subnet-mgr --kubeconfig-file=/etc/kubernetes/admin.kubeconfig \
    --net-config-path=/etc/kubernetes/flannel.json --iface=$ip --ip-masq
wait
