# SPDX-License-Identifier: Apache-2.0
"""`basalt get` and `basalt set`: the settings of the cluster, their versions, and who follows which."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from firstboot.codes import Code
from firstboot.failure import BasaltError, DocumentError, Failure
from firstboot.text import clean, table

if TYPE_CHECKING:
    from firstboot.client import Client


def add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    client: Callable[[argparse.Namespace], Client],
) -> None:
    """Add the commands. client: makes one of the options before the command."""
    getting = commands.add_parser("get", help="show the settings of the cluster")
    getting.description = "Show the settings of the cluster, one or all."
    getting.add_argument("setting", nargs="?", metavar="KEY", help="e.g. features.dns.enabled, features.dns")
    what = getting.add_mutually_exclusive_group()
    what.add_argument("--history", action="store_true", help="show the versions, who made them and when")
    what.add_argument("--nodes", action="store_true", help="show which version each node follows")
    getting.add_argument("--json", action="store_true", help="print JSON")
    getting.set_defaults(command=lambda given: _get(client(given), given))
    setting = commands.add_parser("set", help="change the settings of the cluster")
    setting.description = "Change the settings of the cluster: all of them, or none when one is wrong."
    setting.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="VALUE is YAML, e.g. true, [192.0.2.53, 192.0.2.54]; nothing stands for the default",
    )
    setting.add_argument(
        "--revert", type=int, metavar="VERSION", help="go back to what an older version says"
    )
    _add_options(setting)
    setting.set_defaults(command=lambda given: _set(client(given), given))
    for name, value in (("enable", "true"), ("disable", "false")):
        switching = commands.add_parser(name, help=f"switch features {'on' if value == 'true' else 'off'}")
        switching.description = (
            f"The same as `basalt set features.FEATURE.enabled={value}`, for one or several."
        )
        switching.add_argument("features", nargs="+", metavar="FEATURE", help="e.g. metrics-server")
        _add_options(switching)
        switching.set_defaults(
            value=value,
            command=lambda given: _change(
                client(given), given, [f"features.{each}.enabled={given.value}" for each in given.features]
            ),
        )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--if-version", type=int, metavar="N", help="only if this is the newest version still"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="also where objects would be left without a feature they need, or are missing",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _get(client: Client, given: argparse.Namespace) -> int:
    if given.setting and (given.history or given.nodes):
        raise BasaltError("--history and --nodes are about all settings", "Leave the key out.")
    if given.history:
        return _history(client.get_json("/v1/settings/history"), given)
    if given.nodes:
        return _nodes(client.get_json("/v1/settings/nodes"), given)
    answer = client.get_json("/v1/settings")
    chosen = _chosen(answer["settings"], given.setting)
    if given.setting in chosen:
        value = chosen[given.setting]
        print(json.dumps(value) if given.json else _shown(value))
        return 0
    if given.json:
        print(json.dumps({**answer, "settings": chosen}, indent=2))
        return 0
    if given.setting is None:
        print(f"# version {answer['version']}, made at {answer['time']} by {clean(answer['author'])}")
    for path, value in chosen.items():
        print(f"{path}={_shown(value)}")
    return 0


def _chosen(settings: Mapping[str, Any], key: str | None) -> Mapping[str, Any]:
    """Return the settings at a key or below it. Raises DocumentError when there are none."""
    if key is None:
        return settings
    chosen = {path: value for path, value in settings.items() if path == key or path.startswith(f"{key}.")}
    if not chosen:
        from firstboot.cluster.changes import unknown

        raise DocumentError([unknown(key)])
    return chosen


def _history(answer: Mapping[str, Any], given: argparse.Namespace) -> int:
    if given.json:
        print(json.dumps(answer, indent=2))
        return 0
    rows = [
        [str(each["version"]), each["time"], clean(each["author"]), *change]
        for each in answer["versions"]
        for change in [[_changed(change)] for change in each["changes"]] or [["-"]]
    ]
    print(table([["VERSION", "TIME", "AUTHOR", "CHANGE"], *rows]))
    return 0


def _nodes(answer: Mapping[str, Any], given: argparse.Namespace) -> int:
    if given.json:
        print(json.dumps(answer, indent=2))
        return 0
    newest = answer["version"]
    rows = [
        [
            clean(each["name"]),
            "-" if each["version"] is None else str(each["version"]),
            "yes" if each["version"] == newest else "no",
        ]
        for each in answer["nodes"]
    ]
    print(table([["NODE", "VERSION", "NEWEST"], *rows]))
    return 0


def _set(client: Client, given: argparse.Namespace) -> int:
    if (given.revert is None) == (not given.settings):
        raise DocumentError(
            [
                Failure(
                    Code.BAD_VALUE,
                    "",
                    "the command names no setting, or settings and a version",
                    "Give KEY=VALUE, or --revert VERSION.",
                )
            ]
        )
    if given.revert is None:
        return _change(client, given, given.settings)
    query = {**_options(given), "version": str(given.revert)}
    return _told(client.post_json("/v1/settings/revert", "", query), given)


def _change(client: Client, given: argparse.Namespace, settings: Iterable[str]) -> int:
    # A date is text to every setting.
    body = json.dumps(read(settings), default=str)
    return _told(client.patch_json("/v1/settings", body, _options(given)), given)


def _options(given: argparse.Namespace) -> dict[str, str]:
    expected = {} if given.if_version is None else {"if-version": str(given.if_version)}
    return {**expected, **({"force": "true"} if given.force else {})}


def _told(answer: Mapping[str, Any], given: argparse.Namespace) -> int:
    if given.json:
        print(json.dumps(answer, indent=2))
    elif not answer["changes"]:
        print(f"Nothing to change: version {answer['version']} has these values.")
    else:
        print(f"version {answer['version']}")
        for change in answer["changes"]:
            print(f"  {_changed(change)}")
    return 0


def read(arguments: Iterable[str]) -> dict[str, Any]:
    """Return the values of KEY=VALUE. Raises DocumentError with all mistakes."""
    values: dict[str, Any] = {}
    failures: list[Failure] = []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals:
            failures.append(Failure(Code.BAD_VALUE, key, "has no value", f"Write `{key}=VALUE`."))
        elif key in values:
            failures.append(Failure(Code.DUPLICATE_KEY, key, "is given twice", "Give it once."))
        else:
            values[key], wrong = _value(key, text)
            failures += wrong
    if failures:
        raise DocumentError(failures)
    return values


def _value(key: str, text: str) -> tuple[Any, tuple[Failure, ...]]:
    """Return what a text means in YAML, or what is wrong with it, as in a document."""
    import yaml

    from firstboot.strictyaml import Builder, StructureError, compose, short

    try:
        root = compose(text)
    except StructureError as error:
        return None, (Failure(error.code, key, error.found, error.remedy),)
    except yaml.YAMLError:
        remedy = "Quote it: `KEY='\"VALUE\"'` for text, `KEY='[VALUE, VALUE]'` for a list."
        return None, (Failure(Code.YAML_SYNTAX, key, f"`{short(text)}` is no value in YAML", remedy),)
    if root is None:
        return None, ()
    builder = Builder()
    value = builder.build(root, tuple(key.split(".")))
    return value, tuple(builder.failures)


def _changed(change: Mapping[str, Any]) -> str:
    before, after = (_shown(change[key]) or "(default)" for key in ("before", "after"))
    return f"{change['path']}: {before} -> {after}"


def _shown(value: Any) -> str:
    from firstboot.cluster.settings import show

    return clean(show(value))
