# SPDX-License-Identifier: Apache-2.0
"""How a machine comes to its cluster: it joins one, or starts one that others join."""

from __future__ import annotations

from firstboot.cluster.tokens import BadToken, Token
from firstboot.codes import Code
from firstboot.rules.model import API_ADDRESS, BOOTSTRAP, TOKEN, VIRTUAL_ADDRESS, Rules
from firstboot.schemacheck import show
from firstboot.strictyaml import Path
from firstboot.values import is_host_name, parse_ip, split_port

ENDPOINTS: Path = ("basalt", "cluster", "endpoints")


def check(rules: Rules) -> None:
    """A machine that joins knows where and by what; one that starts the cluster does not join."""
    bootstrap = rules.value(BOOTSTRAP)
    _token(rules, rules.value(TOKEN))
    token = rules.value(TOKEN)
    for path, text in rules.entries(ENDPOINTS):
        host, port = split_port(text, 6401)
        if not (parse_ip(host) or is_host_name(host)) or not 0 < port <= 65535:
            remedy = "Write a host name or an address without scheme, with a port where it is not 6401."
            rules.fail(Code.BAD_ADDRESS, path, f"`{show(text)}` is no host", remedy)
    if rules.is_worker and bootstrap:
        found = "a worker cannot start a cluster"
        rules.fail(Code.BAD_VALUE, BOOTSTRAP, found, "Remove the key, or make it a control-plane.")
    elif rules.is_worker and token is None and not rules.bad_above(TOKEN):
        remedy = "Write the fleet's token, or one from `basalt get-join-token` on a control plane."
        rules.fail(Code.MISSING_KEY, TOKEN, "a worker joins a cluster, and for that it needs a token", remedy)
    elif bootstrap and token is None and not rules.bad_above(TOKEN):
        remedy = "Write the token that the other machines have too, or remove `bootstrap`."
        rules.fail(Code.MISSING_KEY, TOKEN, "nobody can join the cluster that this machine starts", remedy)
    known = rules.value(ENDPOINTS) or rules.value(API_ADDRESS) or rules.value(VIRTUAL_ADDRESS)
    if token is not None and rules.joins and not known and not rules.bad_above(ENDPOINTS):
        remedy = "Write the address of one control plane or more, e.g. `endpoints: [192.0.2.10]`."
        found = "the machine joins a cluster and does not know where"
        if not rules.is_worker:
            remedy += " On the one machine that starts the cluster write `bootstrap: true`."
        rules.fail(Code.MISSING_KEY, ENDPOINTS, found, remedy)


def _token(rules: Rules, text: str | None) -> None:
    try:
        if text is not None:
            Token.parse(text)
    except BadToken as error:
        remedy = (
            "Take all that `basalt get-join-token` prints, or 32 random characters (`openssl rand -hex 32`)."
        )
        rules.fail(Code.BAD_TOKEN, TOKEN, str(error), remedy)
