# SPDX-License-Identifier: Apache-2.0
"""From what the document says about a node to the steps that make it so; nothing happens here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from firstboot.backup.places import Places
from firstboot.cluster import credentials, noticed, rotation, versions
from firstboot.cluster.followed import FILE
from firstboot.cluster.records import ROLE_LABEL, Machine, machine_object
from firstboot.cluster.rotation import Stage
from firstboot.config import DatastoreType
from firstboot.datastores import Endpoint, dqlite, etcd, external
from firstboot.features import dns, ingress, loadbalancer, metrics, network, storage
from firstboot.features.model import Feature, allow, bind_group, bind_user, cluster_role
from firstboot.files import File
from firstboot.kube import Object
from firstboot.paths import ARGUMENTS, CNI_CONFIG, CONTAINERD_REGISTRIES
from firstboot.pki import Issue
from firstboot.pki.catalogue import NODES, Catalogue
from firstboot.pki.leaf import CertificateSpec
from firstboot.pki.verdict import Ledger
from firstboot.probes import All, NodeHasNetwork, NodeIsReady
from firstboot.services import apiserver, balancer, containerd, controllers, kubelet, timesync, virtualaddress
from firstboot.services.model import Node, Service, with_extra
from firstboot.steps.addresses import Released
from firstboot.steps.backends import OtherBackends
from firstboot.steps.certificates import Certificates
from firstboot.steps.claim import Claim
from firstboot.steps.controlplanes import ControlPlanes, admitted, registered
from firstboot.steps.credentials import DatastoreCredentials
from firstboot.steps.files import Absent, Files
from firstboot.steps.gates import Gate
from firstboot.steps.hostname import Hostname
from firstboot.steps.ingress import Definitions, Published
from firstboot.steps.learners import Learners
from firstboot.steps.model import Step
from firstboot.steps.network import CniConfig, PodNetwork
from firstboot.steps.objects import AggregatedApi, Applied, NodeLabels, Objects, Removed
from firstboot.steps.pods import FirstPods, Schedulable
from firstboot.steps.policies import NoticePolicies
from firstboot.steps.restore import Restore
from firstboot.steps.rotation import AdvanceRotation, Authorities, Behind, FollowRotation, TellRotation
from firstboot.steps.settings import FollowSettings, TellVersion
from firstboot.steps.units import Running, Stopped, stopped
from firstboot.steps.virtualaddress import Configured, Introduced, Reloaded

if TYPE_CHECKING:
    from firstboot.datastores.watch import Watch

UNITS = (
    "containerd",
    "etcd",
    "k8s-dqlite",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "network-policy",
    "flanneld",
    "kube-proxy",
    "coredns",
    "traefik",
    "local-storage",
    "metrics-server",
    "load-balancer",
    "load-balancer-l2",
    "load-balancer-bgp",
    "api-balancer",
    "virtual-address-watch",
    "virtual-address",
)
"""Every service of the image that the document switches."""


@dataclass(frozen=True)
class Wanted:
    """What should run on the node: components and features in the order in which they are looked at.

    watch: the eye on a datastore that is no service of the node
    """

    services: tuple[Service, ...]
    features: tuple[Feature, ...]
    objects: tuple[Object, ...]
    watch: Watch | None = None

    @property
    def all_services(self) -> tuple[Service, ...]:
        """Components and the services of features, each once: features may share one."""
        services = (*self.services, *(service for feature in self.features for service in feature.services))
        return tuple({service.unit: service for service in services}.values())


GATES = {
    "k8s-dqlite": "datastore",
    "etcd": "datastore",
    "datastore": "datastore",
    "kube-apiserver": "apiserver",
    "api-balancer": "apiserver",
    "containerd": "containerd",
}
"""Units and other components that others wait for -> what those others call it."""


def wanted(node: Node) -> Wanted:
    """Return what the node runs."""
    control_plane = node.config.role.has_control_plane
    components = _control_plane(node) if control_plane else _worker(node)
    features: tuple[Feature, ...] = (
        network.feature(node),
        dns.feature(node),
        *ingress.features(node),
        loadbalancer.feature(node),
        storage.feature(node),
    )
    if control_plane:
        features = (*features, metrics.feature(node))
    return Wanted(
        services=tuple(with_extra(service, node.config) for service in components),
        features=tuple(_feature_with_extra(feature, node) for feature in features),
        objects=(*OBJECTS, machine_object(_machine(node))) if control_plane else (),
        watch=_watch(node) if control_plane else None,
    )


def _control_plane(node: Node) -> tuple[Service, ...]:
    datastore, endpoint = _datastore(node)
    return (
        *((datastore,) if datastore else ()),
        apiserver.service(node, endpoint),
        containerd.service(node),
        kubelet.service(node),
        controllers.controller_manager(node),
        controllers.scheduler(node),
        *virtualaddress.services(node),
    )


def _worker(node: Node) -> tuple[Service, ...]:
    return balancer.service(node), containerd.service(node), kubelet.service(node)


@dataclass(frozen=True)
class Memory:
    """What the agent's process remembers between passes; nothing is lost with it but a little time.

    membership: where the record of a node that has joined is; those of what it follows are beside it
    told:       what was said on the Node about the CA's rotation
    behind:     who was seen to be behind in that
    """

    ledger: Ledger
    applied: Applied
    membership: Path
    told: Applied = field(default_factory=Applied)
    behind: Behind = field(default_factory=Behind)


def plan(node: Node, wanted: Wanted, certificates: Catalogue, memory: Memory) -> tuple[Step, ...]:
    """Return the steps, each after all that it needs."""
    return tuple(_steps(node, wanted, certificates, memory))


STOPPING = tuple(unit for unit in reversed(UNITS) if unit != "containerd")
"""What stops where nothing may use the datastore, in this order.

Containers run on, and with them pods, until the kubelet is back."""


def restoring(node: Node, certificates: Catalogue, places: Places) -> tuple[Step, ...]:
    """Return the steps of a node whose datastore becomes another; the others follow when they are done.

    All stop that know the old authorities, the datastore last.
    """
    folder = dqlite.FOLDER if node.config.datastore.type is DatastoreType.DQLITE else etcd.FOLDER
    resting = stopped(STOPPING, "the datastore is being exchanged")
    return *resting, Restore(
        STOPPING, certificates, folder, places, needs=tuple(step.name for step in resting)
    )


def resting(units: Sequence[str]) -> tuple[Step, ...]:
    """Return the only steps of a node whose datastore, the last of these, is being looked at while it does not run."""
    return stopped(units, "the datastore is being looked at")


def left_behind() -> tuple[Step, ...]:
    """Return the steps of a control plane without which its cluster goes on: nothing of it runs."""
    return stopped(STOPPING, "the cluster was recovered without this machine")


def _steps(node: Node, wanted: Wanted, certificates: Catalogue, memory: Memory) -> Iterator[Step]:
    yield Hostname(node.name)
    yield from _leftovers(node, wanted)
    yield _authorities(node, certificates)
    yield Certificates(certificates, memory.ledger, _issue(node, certificates))
    if wanted.watch is not None:
        tried = external.endpoint(wanted.watch.external, external.TRIED, owner=None)
        yield Files("files:datastore", tried.files)
        yield Claim(wanted.watch)
    # What enforces policies is asked for first, since its unit comes before the kubelet's.
    first = sorted(wanted.all_services, key=lambda service: service.unit != network.POLICY)
    for service in (*first, timesync.service(node)):
        # An API server that ends by itself is started again by systemd, which asks nobody whose data there is.
        guarded = wanted.watch is not None and service.unit == "kube-apiserver"
        carries = service.unit == virtualaddress.UNIT
        if carries:
            yield Configured(virtualaddress.configuration(node))
            yield Introduced(node, certificates)
        yield from _service(service, ("datastore",) if guarded else ())
        if carries:
            yield Reloaded(virtualaddress.configuration(node))
        if GATES.get(service.unit) == "apiserver":
            yield Gate("apiserver-listens", unit=service.unit)
        if service.unit == "kubelet":
            yield from _node_object(node)
    if node.config.role.has_control_plane:
        yield FirstPods(memory.applied)
        if not node.control_planes:
            yield Schedulable(node.name)
        yield NodeLabels(node.name, {ROLE_LABEL: ""})
        yield Objects("objects:node", wanted.objects, memory.applied)
        for feature in wanted.features:
            yield from _feature_objects(feature, certificates, memory)
        if ingress.is_on(node):
            yield Published(memory.applied, node.config.features.load_balancer.enabled)
        yield from _datastore_credentials(node, wanted, memory)
    if node.control_planes:
        if node.config.role.has_control_plane and node.config.datastore.type is DatastoreType.ETCD:
            yield Learners()
        source = admitted if node.config.role.has_control_plane else registered
        yield ControlPlanes(node.control_planes, memory.membership, source)
    yield NoticePolicies(node, memory.membership.with_name(noticed.FILE))
    yield FollowSettings(node, memory.membership.with_name(FILE))
    if node.followed is not None:
        yield TellVersion(node.name, node.followed.version, memory.applied)
    yield from _rotation(node, certificates, memory)
    if node.config.features.network.enabled:
        founder = node.config.role.has_control_plane and not node.control_planes
        yield CniConfig(partial(network.expected_subnet, node)) if founder else CniConfig()
    pods = node.config.features.network
    yield OtherBackends(pods.backend if pods.enabled else None, node.config.cluster.pod_networks)
    running = {service.unit for service in wanted.all_services}
    for unit in UNITS:
        if unit not in running:
            yield Stopped(unit)


def _authorities(node: Node, certificates: Catalogue) -> Step:
    """Have the files of the CA as the node has written down, before anything is signed or believed by them."""
    side_by_side = node.rotation.overlap if node.rotation else None
    return Authorities(certificates.certificate("agent").ca, side_by_side, node.config.role.has_control_plane)


def _rotation(node: Node, certificates: Catalogue, memory: Memory) -> Iterator[Step]:
    """Follow the rotation of the cluster's CA, and say so."""
    yield FollowRotation(node, certificates, memory.membership.with_name(rotation.FILE))
    if node.rotation is None:
        return
    # Where somebody else runs the datastore, it has to know the cluster by the new CA before the old one goes.
    own = ("datastore",) if node.config.role.has_control_plane else ()
    needs = ("node", "certificates", *own)
    yield TellRotation(node.name, node.rotation, certificates, memory.ledger, memory.told, needs=needs)
    if node.config.role.has_control_plane:
        yield AdvanceRotation(node.rotation, memory.behind)


def _feature_objects(feature: Feature, certificates: Catalogue, memory: Memory) -> Iterator[Step]:
    """Make what a feature needs in the cluster, or remove what it needed."""
    if feature.api is not None:
        trusted = certificates.certificate("agent").ca.trusted
        yield AggregatedApi(f"api:{feature.name}", feature.api, trusted, memory.applied)
    needs: tuple[str, ...] = ("apiserver",)
    if feature.definitions is not None:
        yield Definitions(f"definitions:{feature.name}", feature.definitions, memory.applied)
        needs = (*needs, f"definitions:{feature.name}")
    if feature.objects:
        yield Objects(f"objects:{feature.name}", feature.objects, memory.applied, needs)
    if feature.balanced:
        yield Released(memory.applied)
    if feature.leftovers:
        yield Removed(f"removed:{feature.name}", feature.leftovers, memory.applied)


def _datastore_credentials(node: Node, wanted: Wanted, memory: Memory) -> Iterator[Step]:
    """From the control plane that started the cluster the others know how to reach a datastore of somebody else."""
    if wanted.watch is None:
        return
    if node.config.joins:
        yield DatastoreCredentials(memory.membership)
        return
    told = (credentials.secret(wanted.watch.external),)
    # What does not open this node's own gate would shut those of the others.
    yield Objects("objects:datastore", told, memory.applied, needs=("datastore", "apiserver"))


def _node_object(node: Node) -> Iterator[Step]:
    if node.config.role.has_control_plane and (first := _first_pod_networks(node)):
        yield PodNetwork(node.name, first)
    yield Gate("node", NodeHasNetwork(node.name), needs=("apiserver",))


def _issue(node: Node, certificates: Catalogue) -> Issue | None:
    """Return who signs the node's certificates when it has no authority of its own."""
    if node.config.role.has_control_plane:
        return None

    def issue(due: Sequence[CertificateSpec]) -> list[File]:
        from firstboot.cluster import joining

        return joining.renew(due, certificates.certificate("agent"), node.control_planes)

    return issue


def _machine(node: Node) -> Machine:
    """Return the record of a control plane, which signs for itself."""
    return Machine(node.name, node.config.role.value, node.ip, fingerprint="")


def _leftovers(node: Node, wanted: Wanted) -> Iterator[Step]:
    """Remove what an earlier document asked for before anything is started."""
    services = (*wanted.all_services, timesync.service(node))
    arguments = {service.environment_file.path for service in services if service.revision}
    yield Absent("old-arguments", ARGUMENTS, "*.env", frozenset(arguments))
    mirrors = containerd.mirrors(node.config)
    yield Absent(
        "old-mirrors", CONTAINERD_REGISTRIES, "*/hosts.toml", frozenset(file.path for file in mirrors)
    )
    yield Files("mirrors", mirrors)
    times = {file.path for file in timesync.service(node).files}
    yield Absent("old-time-servers", timesync.FOLDER, "basalt.conf", frozenset(times))
    if not node.config.features.network.enabled:
        yield Absent("old-cni", CNI_CONFIG.parent, CNI_CONFIG.name, frozenset[Path]())


def _service(service: Service, first: tuple[str, ...]) -> Iterator[Step]:
    """From a service to its steps; first: what has to be before its inputs are written."""
    inputs = ["certificates"]
    if service.revision:
        yield Files(f"files:{service.unit}", (*service.files, service.environment_file), needs=first)
        inputs.append(f"files:{service.unit}")
    yield Running(service, needs=(*inputs, *service.needs))
    if gate := GATES.get(service.unit):
        yield Gate(gate, service.probe, unit=service.unit)


def _first_pod_networks(node: Node) -> tuple[str, ...]:
    return network.first_pod_networks(node) if node.config.features.network.enabled else ()


def _datastore(node: Node) -> tuple[Service | None, Endpoint]:
    match node.config.datastore.type:
        case DatastoreType.DQLITE:
            return dqlite.service(node), dqlite.ENDPOINT
        case DatastoreType.ETCD:
            return etcd.service(node), etcd.ENDPOINT
        case DatastoreType.EXTERNAL:
            return None, external.endpoint(node.config.datastore.external)


def _watch(node: Node) -> Watch | None:
    datastore = node.config.datastore
    if datastore.type is not DatastoreType.EXTERNAL:
        return None
    # It brings HTTP and more, which a node with a datastore of its own need not wait for.
    from firstboot.datastores.watch import Watch

    replaced = node.rotation is not None and node.rotation.stage is Stage.SIGN
    return Watch(
        datastore.external, node.config.cluster.name, founds=not node.config.joins, succeeds=replaced
    )


def _feature_with_extra(feature: Feature, node: Node) -> Feature:
    return replace(feature, services=tuple(with_extra(each, node.config) for each in feature.services))


def node_probe(node: Node, kubelet_service: Service) -> All:
    """Return the probe of the kubelet as a user understands it: it answers, and its node is Ready."""
    return All((kubelet_service.probe, NodeIsReady(node.name)))


def missing_needs(steps: Iterable[Step]) -> set[str]:
    """Return needs that no earlier step fulfils; empty for a sound plan."""
    known: set[str] = set()
    missing: set[str] = set()
    for step in steps:
        missing.update(need for need in step.needs if need not in known)
        known.add(step.name)
    return missing


# Logs, exec and port-forward go from the API server to the kubelet; the role comes with Kubernetes.
OBJECTS: tuple[Object, ...] = (
    bind_user("system:kubelet-api-admin", "kube-apiserver-kubelet-client", "basalt:apiserver-to-kubelet"),
    # Agents of workers look whether their own node is Ready and where the control planes are.
    cluster_role("basalt:nodes", [allow("core", "nodes", "get list")]),
    bind_group("basalt:nodes", NODES),
    *versions.ACCESS,
    *rotation.ACCESS,
)
