"""YAML files with bases and dotted overrides -> a checked `Config`."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from online_synclr.config.errors import ConfigError
from online_synclr.config.schema import Config
from online_synclr.paths import find_shipped

BASE_KEY = "base"
_PATH_KEYS = (("captions", "bank"),)
"""Settings that name files looked up next to the YAML that sets them, then among the shipped."""


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read `path` (none: all defaults), lay `overrides` (`a.b=value`) over it, and validate.

    Raises:
        ConfigError: a file, a key or a value is wrong; the message names it and the mend.
    """
    data = _read_with_bases(path) if path is not None else {}
    for override in overrides:
        _merge(data, _parse_override(override))
    return _validate(data)


def resolved_yaml(config: Config) -> str:
    """The whole configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_with_bases(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    found = find_shipped(path, Path.cwd())
    if found in seen:
        chain = " -> ".join(str(step) for step in (*seen, found))
        raise ConfigError(f"{BASE_KEY}: the files include each other in a circle ({chain}).")
    data = _read_yaml(found)
    bases = data.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{BASE_KEY}: {found} must name a file or a list of files there.")
    merged: dict[str, Any] = {}
    for base in bases:
        path = find_shipped(Path(base), found.parent)
        if not path.exists():
            raise ConfigError(
                f"{BASE_KEY}: {found} names {base}, which is neither beside it nor a shipped "
                "config; correct the name."
            )
        _merge(merged, _read_with_bases(path, (*seen, found)))
    _merge(merged, _resolve_paths(data, found.parent))
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"--config: there is no file {path}; check the path.") from None
    except OSError as error:
        raise ConfigError(f"--config: {path} cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold sections such as `trainer:`, not a bare value.")
    return data


def _resolve_paths(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    for section, key in _PATH_KEYS:
        values = data.get(section)
        if isinstance(values, dict) and isinstance(values.get(key), str):
            values[key] = str(find_shipped(Path(values[key]), folder))
    return data


def _parse_override(text: str) -> dict[str, Any]:
    dotted, equals, value_text = text.partition("=")
    if not equals or not all(dotted.split(".")):
        raise ConfigError(f"`{text}` is not an override; write it as section.key=value.")
    try:
        value = yaml.safe_load(value_text)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"{dotted}: `{value_text}` is not a YAML value.") from None
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return _resolve_paths(value, Path.cwd()) if isinstance(value, dict) else {}


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _validate(data: dict[str, Any]) -> Config:
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_first_sentence(error)) from None
    bank = find_shipped(config.captions.bank, Path.cwd())
    captions = config.captions.model_copy(update={"bank": bank})
    return config.model_copy(update={"captions": captions})


def _first_sentence(error: ValidationError) -> str:
    """One sentence for the first of the errors, unknown keys before wrong values."""
    errors = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    first = errors[0]
    location = [part for part in first["loc"] if not _is_union_branch(part)]
    dotted = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        return _unknown_key_sentence([str(part) for part in location])
    more = f" ({len(errors) - 1} more wrong)" if len(errors) > 1 else ""
    reason = first["msg"][0].lower() + first["msg"][1:]
    return f"{dotted}: {reason}, but it is {_shorten(first['input'])}{more}."


def _is_union_branch(part: int | str) -> bool:
    """Pydantic adds the tried branch of a union to the location; it is not a key."""
    return isinstance(part, str) and (
        part.startswith("literal[") or part in {"path", "lax-or-strict"}
    )


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown_key_sentence(location: list[str]) -> str:
    wrong = ".".join(location)
    siblings = _keys_of_section(location[:-1])
    close = difflib.get_close_matches(location[-1], siblings, n=1, cutoff=0.5)
    if close:
        return f"{wrong} is not a setting; did you mean {'.'.join([*location[:-1], close[0]])}?"
    everywhere = [key for key in _all_keys() if key.rsplit(".", 1)[-1] == location[-1]]
    same_section = [key for key in everywhere if key.startswith(f"{location[0]}.")]
    if everywhere:
        return f"{wrong} is not a setting; did you mean {(same_section or everywhere)[0]}?"
    names = difflib.get_close_matches(wrong, _all_keys(), n=1, cutoff=0.5)
    if names:
        return f"{wrong} is not a setting; did you mean {names[0]}?"
    section = ".".join(location[:-1]) or "the file"
    return f"{wrong} is not a setting; {section} knows {', '.join(siblings)}."


def _keys_of_section(location: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _all_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys.extend(_all_keys(field.annotation, f"{prefix}{name}."))
    return keys
