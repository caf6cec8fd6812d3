"""An engine's rules from settings by name, whichever part of the rules they belong to."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ppgstream.core.plan import Plan, Rules, SensorRules


def rules(**settings: Any) -> Rules:
    """`Rules`, of the fields of `Plan`, `SensorRules` and `Rules`."""
    parts = []
    for kind in (Plan, SensorRules):
        names = {f.name for f in fields(kind)} & set(settings)
        parts.append(kind(**{name: settings.pop(name) for name in names}))
    return Rules(*parts, **settings)
