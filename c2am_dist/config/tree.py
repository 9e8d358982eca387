"""What every config is: checked, overridden by dotted path, written as JSON, digested."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar, cast

Config = TypeVar("Config")


def require(is_valid: bool, path: str, expected: str, value: object) -> None:
    if not is_valid:
        raise ValueError(f"{path} must be {expected}, got {value!r}")


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with fields replaced by dotted path: ``override(c, {"loss.alpha": 0.1})``.

    Raises:
        ValueError: a path names no field, or a value is out of range.
    """
    fields = dataclasses.fields(config) if dataclasses.is_dataclass(config) else ()  # type: ignore
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}  # applied together: values are checked together
    for path, value in values.items():
        head, _, rest = path.partition(".")
        if head not in {field.name for field in fields}:
            raise ValueError(f"{path}: {type(config).__name__} has no field {head!r}")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            changes[head] = value
    for head, inner in nested.items():
        changes[head] = override(getattr(config, head), inner)
    return dataclasses.replace(config, **changes)  # type: ignore


def to_json(config: Any) -> str:
    """The config as canonical JSON: sorted keys, no spaces."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True, separators=(",", ":"))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a config's JSON object by dotted path."""
    items: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            items |= flat(cast(dict[str, Any], value), f"{prefix}{name}.")
        else:
            items[prefix + name] = value
    return items


def digest(config: Any) -> str:
    """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()
