# SPDX-License-Identifier: Apache-2.0
"""A change of the cluster's settings: which keys there are, and whether what comes out is right.

Schema and rules are those of the document. A key that this version does not know was set by a later one, and stays.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from firstboot import schema
from firstboot.cluster.settings import (
    EXTERNAL,
    FIXED,
    OWN,
    Settings,
    Values,
    fixed,
    flat,
    is_own,
    keys,
    of,
    paths,
)
from firstboot.codes import Code
from firstboot.config import Config, Role
from firstboot.failure import DocumentError, Failure

PREFIX = "basalt."
"""How paths begin in failures of a document."""


def effective(settings: Settings) -> dict[str, Any]:
    """Return the value of every key by path; None for one that has neither a value nor a default.

    Settings that are wrong, since somebody has gone round all of this, are returned as they are.
    """
    values = flat(settings if problems(settings) else of(_config(settings)))
    return {path: values.get(path) for path in paths()}


def put(settings: Settings, changes: Values) -> dict[str, Any]:
    """Return the settings with other values; nothing looks at them."""
    new: dict[str, Any] = copy.deepcopy(dict(settings))
    for path, value in changes.items():
        *above, key = path.split(".")
        place = new
        for each in above:
            if not isinstance(place.get(each), dict):
                place[each] = {}
            place = place[each]
        place.pop(key, None)
        if value is not None:
            place[key] = value
    return new


def differing(settings: Settings, changes: Values) -> dict[str, Any]:
    """Return those of some right changes that change anything."""
    old, new = effective(settings), effective(put(settings, changes))
    return {path: value for path, value in changes.items() if old.get(path) != new.get(path)}


def changed(settings: Settings, changes: Values) -> dict[str, Any]:
    """Return the settings after changes, every key written out. Raises DocumentError with all mistakes."""
    refused = {
        path: failure for path, value in changes.items() if (failure := _refused(path, value, settings))
    }
    new = put(settings, {path: value for path, value in changes.items() if path not in refused})
    failures = (*refused.values(), *problems(new))
    if failures:
        raise DocumentError(failures)
    return _overlaid(new, of(_config(new)))


def problems(settings: Settings) -> tuple[Failure, ...]:
    """Return what is wrong with settings, by the schema and the rules of the document.

    What is one machine's affair must not be among them, so that it is missing is no mistake.
    """
    from firstboot.validate import check_document

    strange = tuple(unknown(path) for path in sorted(OWN) if _holds(settings, path))
    found = check_document(_document(settings))
    return strange + tuple(
        Failure(each.code, path, each.found, each.remedy)
        for each in found
        if not is_own(path := each.path.removeprefix(PREFIX))
    )


def _holds(settings: Settings, path: str) -> bool:
    section, key = path.split(".")
    return key in settings[section]


def unknown(path: str) -> Failure:
    """Return why a path is no setting of the cluster."""
    from firstboot.document import closest

    below = [each for each in paths() if each.startswith(f"{path}.")]
    if not below and any(_related(path, each) for each in keys(_schema())):
        found = "is about one machine and no setting of the cluster"
        remedy = "Write it in the document of that machine."
        if f"{path}.".startswith(f"{EXTERNAL}."):
            remedy = "Write it in the document of the control plane that started the cluster, which tells the others."
        return Failure(Code.MACHINE_SETTING, path, found, remedy)
    near = closest(path, list(paths()))
    remedy = f"Is it `{near}`? `basalt get` lists all." if near else "`basalt get` lists all."
    if below:
        remedy = f"Name one of {', '.join(below)}."
    return Failure(Code.UNKNOWN_KEY, path, "there is no such setting", remedy)


def _related(path: str, key: str) -> bool:
    """Whether a path is a key of one machine, or stands above or below one."""
    return key not in paths() and (key == path or key.startswith(f"{path}.") or path.startswith(f"{key}."))


def _refused(path: str, value: Any, settings: Settings) -> Failure | None:
    if path not in paths():
        return unknown(path)
    # A default is another value where the cluster was started with one of its own.
    if path in FIXED and differing(settings, {path: value}):
        return fixed(path, effective(settings)[path])
    return None


def _config(settings: Settings) -> Config:
    return Config.from_dict(_document(settings))


def _document(settings: Settings) -> dict[str, Any]:
    """Return a document with the settings, as far as this version knows them."""
    return {"role": Role.CONTROL_PLANE.value, **_known(settings, _schema())}


def _schema() -> Mapping[str, Any]:
    return schema.load("user-data")


def _known(data: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: value for key, value in data.items() if key in described["properties"]}
    for key, value in known.items():
        inner = described["properties"][key]
        if "properties" in inner and isinstance(value, Mapping):
            known[key] = _known(value, inner)
    return known


def _overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, the upper one's values where both have some."""
    out = dict(below)
    for key, value in above.items():
        known = out.get(key)
        both = isinstance(value, Mapping) and isinstance(known, Mapping)
        out[key] = _overlaid(known, value) if both and known is not None else value
    return out
