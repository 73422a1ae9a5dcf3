# SPDX-License-Identifier: Apache-2.0
"""Every code that a document can fail with. docs/failures.md is made from this list."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """A stable name for one kind of mistake, with what it means."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Code:
        """Make the member a string that carries its meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    # No document
    NO_USER_DATA = (
        "no-user-data",
        "cloud-init ended and found no user-data, and no other source has a document.",
    )
    CLOUD_INIT_FAILED = "cloud-init-failed", "cloud-init stopped before it had read the user-data."
    UNREADABLE = "unreadable", "The file exists but cannot be read."

    # The text
    NOT_TEXT = "not-text", "The document is not UTF-8 text, or holds characters that no YAML file may hold."
    TOO_LARGE = "too-large", "The document is longer, deeper or has more values than a document can need."
    EMPTY = "empty-document", "The document has no content."
    OTHER_FORMAT = "other-format", "The file is a script, a MIME message, a template or an archive."
    YAML_SYNTAX = "yaml-syntax", "The text is not YAML."
    TAB = "tab-character", "A tab is used for indentation, which YAML does not allow."
    SEVERAL_DOCUMENTS = "several-documents", "The file holds more than one YAML document."
    ALIAS = "bad-alias", "An alias (`*name`) names nothing, or something that it is a part of itself."
    ALIAS_BOMB = "alias-bomb", "Written out, the aliases of the document would be enormous."
    NO_BASALT_KEY = "no-basalt-key", "The file is YAML but has no top-level key `basalt`."

    # YAML that says something else than it seems to
    DUPLICATE_KEY = "duplicate-key", "The same key stands twice in one mapping."
    KEY_NOT_TEXT = "key-not-text", "YAML reads a key as a number, a date, true, false or nothing."
    BAD_MERGE = "bad-merge", "A merge key (`<<`) does not point to a mapping."
    BAD_TAG = "bad-tag", "A value has a tag (`!name`) that means nothing here, or does not fit its tag."
    QUOTE_IT = "quote-it", "Text is wanted, but YAML reads the unquoted value as something else."

    # Schema
    UNKNOWN_KEY = "unknown-key", "There is no such key."
    BAD_NAME = "bad-name", "A key whose name you choose has a name that is not allowed."
    MISSING_KEY = "missing-key", "A key that has no default is missing."
    WRONG_TYPE = "wrong-type", "The value is of another type than the key wants."
    NO_VALUE = "no-value", "The key has nothing after its colon."
    NOT_A_CHOICE = "not-a-choice", "The value is none of those that the key knows."
    BAD_VALUE = "bad-value", "The value does not have the form that the key wants."
    LINE_BREAK = "line-break", "A value that must be one line has a line break or another control character."

    # Rules between values
    BAD_ADDRESS = "bad-address", "The value is no address, or one that cannot be used here."
    BAD_NETWORK = "bad-network", "The value is no network in CIDR notation, or one that cannot be used here."
    WRONG_FAMILY = (
        "wrong-family",
        "The address or network is IPv6 where IPv4 is wanted, or the other way round.",
    )
    HOST_BITS = "host-bits-set", "The network's address has bits set behind its prefix."
    NETWORK_SIZE = "network-size", "The network is too small or too large."
    OVERLAP = "networks-overlap", "Two networks of the document share addresses."
    OUTSIDE_NETWORK = "outside-network", "The address does not lie where it must."
    INSIDE_NETWORK = "inside-network", "The address lies in the pod or service network."
    DUPLICATE_TAINT = "duplicate-taint", "Two taints have the same key and effect."
    RESTRICTED_LABEL = "restricted-label", "A node may not set this label on itself."
    OWNED_ARGUMENT = "owned-argument", "Basalt sets this argument itself."
    PORT_IN_USE = "port-in-use", "The port belongs to another service of the node."
    BAD_URL = "bad-url", "The URL cannot be used here."
    BAD_CERTIFICATE = (
        "bad-certificate",
        "The certificates cannot be read, are of another kind than is wanted, or have expired.",
    )
    BAD_KEY = "bad-key", "The private key cannot be read, or is the key of another certificate."
    PRIVATE_KEY = "private-key", "The document holds a private key where a certificate is wanted."

    # The document and this node
    NOT_ON_NODE = "address-not-on-node", "No interface of the node has the address."
    NETWORK_TAKEN = (
        "network-taken",
        "A network of the cluster overlaps with one that the node is connected to.",
    )
    NOT_CONNECTED = (
        "not-connected",
        "The node is connected to no network in which the address is one of a host.",
    )
    NO_ADDRESS = "no-address", "The node has no address that other machines could reach it by."
    LITTLE_MEMORY = "not-enough-memory", "The machine has too little memory for its role."
    FIXED_SETTING = "fixed-setting", "The document changes what a node keeps for its life."

    # Joining a cluster
    BAD_TOKEN = "bad-token", "The token is damaged, or one that could be guessed."
    DIFFERS_FROM_CLUSTER = (
        "differs-from-cluster",
        "The document has a value that its cluster has otherwise.",
    )
    MACHINE_SETTING = "machine-setting", "The key is about one machine, and no setting of the cluster."
    SETTINGS_CHANGED = (
        "settings-changed",
        "Somebody else has changed the cluster's settings meanwhile; nothing was changed.",
    )
    FEATURE_IN_USE = "feature-in-use", "Objects in the cluster need the feature that would be switched off."
    SECRET_MISSING = "secret-missing", "The cluster has no Secret of that name, or none with a certificate."
    VERSION_UNKNOWN = "version-unknown", "That version of the cluster's settings is not kept."
    CLUSTER_UNREACHABLE = "cluster-unreachable", "No control plane answers where the document says."
    CLUSTER_NOT_TRUSTED = (
        "cluster-not-trusted",
        "Who answers does not prove to be the cluster that the token is for.",
    )
    TOKEN_UNKNOWN = "token-unknown", "The cluster does not know the token."
    TOKEN_EXPIRED = "token-expired", "The token's lifetime is over."
    TOKEN_USED = "token-used", "The one-time token has let in another machine already."
    TOKEN_ROLE = "token-role", "The token is for machines of another role."
    CLOCKS_APART = "clocks-apart", "The clocks of the node and of the cluster differ."
    VERSION_APART = (
        "version-apart",
        "The node's version of Kubernetes does not go together with the cluster's.",
    )
    NAME_TAKEN = "name-taken", "The cluster has a node of that name."
    ADDRESS_TAKEN = "address-taken", "Another node of the cluster has the address."
    JOIN_WAITS = "join-waits", "The cluster is not ready for another node yet; it goes on by itself."
    JOIN_FAILED = "join-failed", "A control plane could not let the node in; it is tried again."
    JOIN_REFUSED = "join-refused", "This control plane has refused a machine lately."

    # Backups of the datastore
    BACKUP_FORMAT = (
        "backup-format",
        "The file is no backup, or one of a format that this version does not know.",
    )
    BACKUP_DAMAGED = "backup-damaged", "The backup is cut off or was changed."
    BACKUP_KEY = "backup-key", "The passphrase or key does not open the backup."
    BACKUP_DIFFERS = (
        "backup-differs",
        "The backup is of a cluster that the node's document does not describe.",
    )
    BACKUP_FAILED = "backup-failed", "A backup could not be taken; it is tried again."
    NOT_ALONE = (
        "not-alone",
        "The control plane has partners, and what is asked for is possible without any only.",
    )
    HAS_QUORUM = (
        "has-quorum",
        "The datastore works, or so many of its members are there that it could.",
    )
    LEFT_BEHIND = (
        "left-behind",
        "The cluster was recovered without this control plane, which must not run any more.",
    )
    NOT_POSSIBLE = (
        "not-possible",
        "The node's datastore has no such function, or nothing that it could be done with.",
    )
    MOVE_REFUSED = (
        "move-refused",
        "The datastore cannot be moved as the cluster stands; nothing was changed.",
    )
    MOVE_FAILED = "move-failed", "The datastore that was moved did not start, and is what it was."
    DATASTORE_MOVES = (
        "datastore-moves",
        "The datastore is being moved to the other kind; it goes on by itself.",
    )
    BUSY = "busy", "The node does already what is asked for."

    # A datastore that somebody else runs
    DATASTORE_UNREACHABLE = "datastore-unreachable", "An endpoint of the external etcd does not answer."
    DATASTORE_NOT_TRUSTED = (
        "datastore-not-trusted",
        "An endpoint's certificate is not of the document's CA, or not for the endpoint's name.",
    )
    DATASTORE_REFUSES = (
        "datastore-refuses",
        "The external etcd does not accept the client certificate, or its user may not do what is needed.",
    )
    DATASTORE_OLD = "datastore-old", "The external etcd is older than Kubernetes needs."
    DATASTORE_NO_QUORUM = "datastore-no-quorum", "Too few members of the external etcd work."
    DATASTORE_ALARM = "datastore-alarm", "The external etcd has raised an alarm, such as a full database."
    DATASTORE_MIXED = "datastore-mixed", "The endpoints belong to different etcd clusters."
    DATASTORE_FOREIGN = "datastore-foreign", "The data under the prefix belongs to somebody else."
    DATASTORE_EMPTY = "datastore-empty", "The cluster's data is not where it was."

    # Leaving a cluster
    NODE_UNKNOWN = "node-unknown", "The cluster has no node of that name that could be removed."
    REMOVE_REFUSED = "remove-refused", "The node cannot be removed by the control plane that was asked."
    QUORUM_NEEDED = "quorum-needed", "Without the node too few members of the datastore would work."
    PODS_REMAIN = "pods-remain", "Pods were still on the node when the time for its removal was over."
    MACHINE_RUNS = "machine-runs", "The machine was told to leave, and its kubelet still runs."
    LEAVE_WAITS = "leave-waits", "The machine leaves and waits until the cluster has taken it out."
    RESET_REFUSED = "reset-refused", "The machine is not reset as it stands; nothing was changed."
    RESET_FAILED = "reset-failed", "The machine cannot be reset by itself; nothing runs on it any more."

    # The running node
    DISK_FULL = "disk-full", "The disk with the node's data has no room left, or almost none."
    AUTHORITY_ENDS = "authority-ends", "A certificate authority ends soon, or has ended."
    CERTIFICATE_ENDS = (
        "certificate-ends",
        "A certificate ends soon, and the node could not make it anew, or may not.",
    )
    ROTATION_REFUSED = "rotation-refused", "The rotation of the cluster's CA cannot go on as was asked."
    ROTATION_BEHIND = "rotation-behind", "A node is not through with the rotation of the cluster's CA."
    STEP_FAILED = "step-failed", "Something the document asks for could not be done; it is tried again."
    COMPONENT_DEGRADED = "component-degraded", "A component worked and does not work now."
    COMPONENT_FAILED = "component-failed", "A component has not come up in the time it may take."
    CANNOT_LISTEN = "cannot-listen", "The agent cannot open one of its own ports or sockets."
    AGENT_ERROR = "agent-error", "The agent met an error that it did not expect."
