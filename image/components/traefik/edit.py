# SPDX-License-Identifier: Apache-2.0
"""Leave in Traefik what a node uses: Ingress and Gateway API out of Kubernetes.

The other sources of configuration bring the clients of several clouds and stores, certificates from ACME by DNS
those of a hundred more, plug-ins two interpreters. That is more than half of the program, and some of it cannot be
fetched from everywhere.
"""

import re
import shutil
import sys
from pathlib import Path

PACKAGES = "github.com/traefik/traefik/v3/pkg"

UNUSED = {
    "consulcatalog": ("ConsulCatalog",),
    "docker": ("Docker", "Swarm"),
    "ecs": ("Ecs",),
    "http": ("HTTP",),
    "kubernetes/crd": ("KubernetesCRD",),
    "kubernetes/ingress-nginx": ("KubernetesIngressNGINX",),
    "kubernetes/knative": ("Knative",),
    "kv/consul": ("Consul",),
    "kv/etcd": ("Etcd",),
    "kv/redis": ("Redis",),
    "kv/zk": ("ZooKeeper",),
    "nomad": ("Nomad",),
}
"""Folder of a provider -> its fields in the static configuration."""

PRECEDENCE = """// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"strings"

	netv1 "k8s.io/api/networking/v1"
)

// precedence orders rules as Kubernetes does: a host before a wildcard before none, then the longest path, and of two
// equal paths the exact one. By default it would be the length of the rule's text.
func precedence(host string, path netv1.HTTPIngressPath) int {
	found := 1 + 2*min(len(strings.TrimSuffix(path.Path, "/")), 1<<14)
	if path.PathType != nil && *path.PathType == netv1.PathTypeExact {
		found++
	}
	switch {
	case host == "":
		return found
	case strings.HasPrefix(host, "*."):
		return found + 1<<16
	}
	return found + 1<<17
}
"""
NO_DASHBOARD = """package webui

import "embed"

var FS embed.FS
"""


def replace(text: str, pattern: str, replacement: str = "", times: int = 1) -> str:
    """Replace what the pattern matches; as often as said, or upstream has changed and this file must follow."""
    result, count = re.subn(pattern, replacement, text, flags=re.MULTILINE | re.DOTALL)
    if count != times:
        raise SystemExit(f"edit.py: {pattern!r} matches {count} times, expected {times}")
    return result


def without_providers(static: str, aggregator: str) -> tuple[str, str]:
    """Return the static configuration and the aggregator's code without the unused providers."""
    for folder, fields in UNUSED.items():
        alias = "ingressnginx" if folder.endswith("nginx") else folder.rpartition("/")[2]
        static = replace(static, rf'^\t({alias} )?"{PACKAGES}/provider/{folder}"\n')
        names = len(re.findall(rf"^\t{alias}\.\w*Name,\n", static, re.MULTILINE))
        static = replace(static, rf"^\t{alias}\.\w*Name,\n", times=names)
        for field in fields:
            static = replace(static, rf"^\t{field} +\*{alias}\.[^\n]*\n")
            aggregator = replace(aggregator, rf"^\tif conf\.{field} != nil \{{.*?^\t\}}\n\n")
    return static, aggregator


def edit(module: Path) -> None:
    """Edit the copy of the module in this folder."""
    for test in module.rglob("*_test.go"):
        test.unlink()
    for folder in ("cmd", "integration", "internal", "webui"):
        shutil.rmtree(module / folder)
    (module / "webui").mkdir()
    (module / "webui/embed.go").write_text(NO_DASHBOARD)
    packages = module / "pkg"
    for folder in (
        "cli",
        "collector",
        "config/kv",
        "plugins",
        "provider/tailscale",
        "provider/kv",
        "testhelpers",
    ):
        shutil.rmtree(packages / folder)
    for folder in UNUSED:
        if folder != "kubernetes/crd" and not folder.startswith("kv/"):
            shutil.rmtree(packages / "provider" / folder)
    # The Gateway API may refer to Traefik's own objects, so their types stay.
    for entry in (packages / "provider/kubernetes/crd").iterdir():
        if entry.name != "traefikio":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    configuration, sources = (
        packages / "config/static/static_config.go",
        packages / "provider/aggregator/aggregator.go",
    )
    static, aggregator = without_providers(configuration.read_text(), sources.read_text())
    static = replace(static, r"^\tif c\.Providers\.Docker != nil \{.*?^\t\}\n\n")
    static = replace(static, r"^\tif c\.Providers\.Swarm != nil \{.*?^\t\}\n\n")
    static = replace(static, r"^\t\tif c\.Providers\.KubernetesCRD != nil \{.*?^\t\t\}\n\n")
    static = replace(static, r"^\tif c\.Providers\.KubernetesIngressNGINX != nil \{.*?^\t\}\n\n")
    static = replace(
        static, r"^\tif c\.Providers != nil && c\.Providers\.KubernetesIngressNGINX != nil \{.*?^\t\}\n\n"
    )
    static = replace(static, r"^\tif c\.Providers != nil && c\.Providers\.Knative != nil \{.*?^\t\}\n\n")
    configuration.write_text(static)
    sources.write_text(aggregator)

    ingress = packages / "provider/kubernetes/ingress"
    (ingress / "precedence.go").write_text(PRECEDENCE)
    routers = ingress / "kubernetes.go"
    added = "\\g<0>\\tif rt.Priority == 0 {\\n\\t\\trt.Priority = precedence(rule.Host, pa)\\n\\t}\\n"
    text = replace(routers.read_text(), r'^\trt\.Rule = strings\.Join\(rules, " && "\)\n', added)
    # The API server gives an Ingress the default class when it is made, and never later: one that was made before the
    # class was there names none for ever.
    annotation = "ingress.Annotations[annotationKubernetesIngressClass]"
    named = rf"^\treturn p\.IngressClass == {re.escape(annotation)} \|\|\n[^\n]*\n"
    text = replace(text, named, f'\\treturn {annotation} == "" || {annotation} == p.IngressClass\\n')
    routers.write_text(text)

    # By a module of theirs that is released nowhere, a commercial edition adds fields.
    dynamic = packages / "config/dynamic/http_config.go"
    text = replace(dynamic.read_text(), r'^\t"github\.com/traefik/traefik/dynamic/ext"\n')
    dynamic.write_text(replace(text, r"^\text\.(HTTP|Router) [^\n]*\n", times=2))
    copied = packages / "config/dynamic/zz_generated.deepcopy.go"
    copied.write_text(replace(copied.read_text(), r"^\tout\.(HTTP|Router) = in\.\1\n", times=2))

    experimental = packages / "config/static/experimental.go"
    text = replace(experimental.read_text(), rf'^import "{PACKAGES}/plugins"\n')
    experimental.write_text(replace(text, r"^\t(Plugins|LocalPlugins) +map[^\n]*\n", times=2))

    middlewares = packages / "server/middleware/plugins.go"
    text = replace(middlewares.read_text(), rf'^\t"{PACKAGES}/plugins"\n')
    constructor = "func(context.Context, http.Handler) (http.Handler, error)"
    middlewares.write_text(replace(text, r"plugins\.Constructor", constructor, times=2))

    certificates = packages / "provider/acme/provider.go"
    text = replace(certificates.read_text(), r'^\t"github\.com/go-acme/lego/v5/providers/dns"\n')
    refused = 'provider, err = nil, errors.New("this build proves names by HTTP or TLS only")'
    certificates.write_text(
        replace(text, r"provider, err = dns\.NewDNSChallengeProviderByName\([^\n]*\)", refused)
    )


if __name__ == "__main__":
    edit(Path(sys.argv[1]))
