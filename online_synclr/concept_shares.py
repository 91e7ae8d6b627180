"""What part of the captions each source of concepts has, as the run goes on.

A concept bank gives every source a share. `captions.share_schedule` changes them by step: a change
names some sources, which then have exactly these parts of all captions; what is left goes to the
others in the bank's proportions. A change holds from its step on, at once or along a straight line
of `ramp_steps` steps, until the next one. Shares depend on settings and step alone, so a run that
is resumed goes on with the right ones.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from online_synclr.config.errors import ConfigError
from online_synclr.config.schema import ShareChange
from online_synclr.paths import find_shipped
from online_synclr.stream.messages import MAX_SOURCE_NAME, MAX_SOURCES

Shares = dict[str, float]
"""By source; they add up to 1."""

KEY = "captions.share_schedule"
_SLACK = 1e-6
_CHANGES: TypeAdapter[tuple[ShareChange, ...]] = TypeAdapter(tuple[ShareChange, ...])


def bank_shares(path: Path) -> Shares:
    """The shares that a concept bank's own file gives its sources; the file may be a shipped one.

    Raises:
        ConfigError: they cannot be read from it.
    """
    try:
        text = find_shipped(path, Path.cwd()).read_text(encoding="utf-8")
        sources = yaml.safe_load(text)["sources"]
        shares = {str(name): float(entry["share"]) for name, entry in sources.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"captions.bank: {path} gives its sources no shares that can be read ({error!r}); "
            "write `sources: {name: {file: ..., share: ..., kind: ...}}`."
        ) from None
    total = sum(shares.values())
    if not all(share > 0 for share in shares.values()) or not 0 < total < math.inf:
        raise ConfigError(f"captions.bank: {path} has a share that is no number above 0; mend it.")
    return {name: share / total for name, share in shares.items()}


def shares_at(bank: Shares, changes: Sequence[ShareChange], step: int) -> Shares:
    """The shares in force after `step` steps.

    Args:
        bank: as `bank_shares` reads them.
        changes: checked by `check_changes`.
        step: of the run, from 0.
    """
    shares = bank
    for change in changes:
        if change.step > step:
            break
        target = _target(bank, change)
        done = min(1.0, (step - change.step) / change.ramp_steps) if change.ramp_steps else 1.0
        shares = {name: (1 - done) * shares[name] + done * target[name] for name in bank}
    return shares


def check_changes(bank: Shares, changes: Sequence[ShareChange], key: str = KEY) -> None:
    """Refuse changes that cannot be followed.

    Raises:
        ConfigError: one sentence that begins with `key`.
    """
    if changes and (len(bank) > MAX_SOURCES or max(map(len, bank)) > MAX_SOURCE_NAME):
        raise ConfigError(
            f"{key}: generators can be told of at most {MAX_SOURCES} sources with names of at most "
            f"{MAX_SOURCE_NAME} letters; put lists of captions.bank together or shorten names."
        )
    for before, after in pairwise(changes):
        if after.step <= before.step:
            raise ConfigError(
                f"{key}: a change at step {after.step} comes after one at step {before.step}; put "
                "them in order, one a step."
            )
        if after.step < before.step + before.ramp_steps:
            raise ConfigError(
                f"{key}: the change at step {before.step} takes until step "
                f"{before.step + before.ramp_steps}, but the next one begins at {after.step}; "
                "shorten ramp_steps or begin later."
            )
    for change in changes:
        _check_change(bank, change, key)


def parse_changes(text: str, key: str) -> tuple[ShareChange, ...]:
    """Changes as YAML, in the form of the setting.

    Raises:
        ConfigError: it is something else; the sentence begins with `key`.
    """
    try:
        return _CHANGES.validate_python(yaml.safe_load(text) or ())
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            reason = f"{place}: {first['msg']}" if place else first["msg"]
        else:
            reason = " ".join(str(error).split())
        raise ConfigError(
            f"{key} is no list of changes ({reason}); write them as "
            "`- {step: 0, shares: {source: 0.3}}`."
        ) from None


def largest_difference(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """By how much the share of any source differs."""
    names = one.keys() | other.keys()
    return max((abs(one.get(name, 0.0) - other.get(name, 0.0)) for name in names), default=0.0)


def _target(bank: Shares, change: ShareChange) -> Shares:
    left = max(0.0, 1.0 - sum(change.shares.values()))
    of_others = sum(share for name, share in bank.items() if name not in change.shares)
    return {
        name: change.shares[name] if name in change.shares else left * share / of_others
        for name, share in bank.items()
    }


def _check_change(bank: Shares, change: ShareChange, key: str) -> None:
    where = f"{key}: the change at step {change.step}"
    unknown = sorted(change.shares.keys() - bank.keys())
    if unknown:
        raise ConfigError(
            f"{where} names the source {unknown[0]}, but captions.bank has "
            f"{', '.join(sorted(bank))}."
        )
    total = sum(change.shares.values())
    names_all = change.shares.keys() == bank.keys()
    if total > 1 + _SLACK or (names_all and total < 1 - _SLACK):
        raise ConfigError(
            f"{where} gives out {total:g} of the captions; shares add up to "
            + ("1." if names_all else "at most 1, and sources it does not name have the rest.")
        )
