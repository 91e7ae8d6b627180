"""Who takes part in a run, as every view of it shows it."""

from dataclasses import asdict, dataclass
from typing import Any

from online_synclr.config import Config
from online_synclr.topology import Member, Roster


@dataclass(frozen=True, kw_only=True)
class RunRoles:
    """Who takes part.

    `generators`: ids, as in the metrics' names; `generator_devices` and `trainer_devices` are in
    the order of the ids and of the trainer indices; `synthetic_parts` names stand-in engines,
    which every view must announce.
    """

    generators: tuple[str, ...]
    num_trainers: int
    hosts: tuple[str, ...]
    trainer_devices: tuple[str, ...] = ()
    generator_devices: tuple[str, ...] = ()
    synthetic_parts: tuple[str, ...] = ()

    @classmethod
    def from_roster(cls, roster: Roster, config: Config) -> "RunRoles":
        """Roles of a launched run; generators are named as they name themselves."""
        return cls(
            generators=tuple(f"g{index}" for index in range(len(roster.generators))),
            num_trainers=len(roster.trainers),
            hosts=tuple(dict.fromkeys(member.host for member in roster.members)),
            trainer_devices=_devices(roster.trainers, roster.one_host),
            generator_devices=_devices(roster.generators, roster.one_host),
            synthetic_parts=tuple(config.synthetic_parts),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `roles.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "RunRoles":
        """The reverse of `as_dict`, also after a trip through JSON."""
        fixed: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**fixed)

    def announcement(self) -> str:
        """One sentence that names the synthetic engines, or an empty string."""
        if not self.synthetic_parts:
            return ""
        return f"SYNTHETIC ENGINES, not a real run: {', '.join(self.synthetic_parts)}"


def _devices(members: list[Member], one_host: bool) -> tuple[str, ...]:
    return tuple(
        member.device if one_host else f"{member.host}/{member.device}" for member in members
    )
