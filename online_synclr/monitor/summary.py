"""What a run did, in numbers that add up and in words."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from online_synclr.monitor.formats import duration, number, percent
from online_synclr.run_folder import write_durably


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The whole run, from its first attempt on.

    Counts are of groups unless the name says otherwise; `_s` are seconds; `_fraction` and the
    `_waits` (by cause) are shares of the time since the first step, means over the ranks of a
    side. Rates are means from the first step to the last. `group_uses` counts every use of a
    group in a batch; `groups_trained` those used at least once. kNN accuracies are shares of one,
    None where none was measured. `dropped`: groups, other messages and strangers' connections that
    were not taken in, by reason. `generator_shares` are parts of the images rendered, by id.
    `ledger`: groups entered, those whose entry was lost, bytes and bytes a group.
    """

    steps: int
    groups_sent: int
    groups_received: int
    groups_trained: int
    group_uses: int
    groups_lost: int
    groups_discarded: int
    groups_evicted_unused: int
    groups_left: int
    distinct_captions: int
    images_rendered: int
    trainer_images_per_s: float
    trainer_image_uses_per_s: float
    generator_images_per_s: float
    trainer_wait_fraction: float
    generator_wait_fraction: float
    time_to_first_step_s: float
    wall_s: float
    captions_accepted: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    trainer_waits: dict[str, float] = field(default_factory=dict)
    generator_waits: dict[str, float] = field(default_factory=dict)
    generator_shares: dict[str, float] = field(default_factory=dict)
    generator_restarts: int = 0
    ledger: dict[str, float] = field(default_factory=dict)
    knn_before: float | None = None
    knn_after: float | None = None
    final_loss: float | None = None
    ended_by: str = "all steps done"
    synthetic_parts: list[str] = field(default_factory=list)

    def check_identities(self) -> list[str]:
        """What does not add up, one sentence each; empty where all is well."""
        came = self.groups_received + self.groups_lost + self.groups_discarded
        went = self.groups_trained + self.groups_evicted_unused + self.groups_left
        checks = [
            (
                self.groups_sent == came,
                f"groups sent ({self.groups_sent}) are not received + lost + discarded ({came})",
            ),
            (
                self.groups_received == went,
                f"groups received ({self.groups_received}) are not trained + evicted unused + "
                f"left ({went})",
            ),
            (
                self.group_uses >= self.groups_trained,
                f"group uses ({self.group_uses}) are fewer than groups trained "
                f"({self.groups_trained})",
            ),
            (
                self.distinct_captions <= self.groups_received,
                f"distinct captions ({self.distinct_captions}) are more than groups received "
                f"({self.groups_received})",
            ),
        ]
        negative = [name for name, value in asdict(self).items() if _is_negative(value)]
        broken = [sentence for holds, sentence in checks if not holds]
        return broken + [f"{name} is negative" for name in negative]

    def write(self, path: Path) -> None:
        """Replace the JSON file whole.

        Raises:
            OSError: it cannot be written; an older file stays as it was.
        """
        data = asdict(self) | {"violations": self.check_identities()}
        write_durably(path, json.dumps(data, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Summary":
        """Read a file that `write` made."""
        data = json.loads(path.read_text(encoding="utf-8"))
        data.pop("violations", None)
        return cls(**data)

    def text(self, run_dir: Path) -> str:
        """The closing words for people."""
        lines = [
            self._headline(),
            f"  captions   {self.distinct_captions} distinct, one class each; "
            f"{self.images_rendered} images rendered",
            f"  images/s   generators {number(self.generator_images_per_s)}, trainers "
            f"{number(self.trainer_images_per_s)} new and "
            f"{number(self.trainer_image_uses_per_s)} with reuse",
            f"  waiting    {self.waiting()}",
            f"  kNN        {percent(self.knn_before, 1)} before, "
            f"{percent(self.knn_after, 1)} after",
            f"  run folder {run_dir}",
            f"  look at it tensorboard --logdir {run_dir / 'tb'}",
        ]
        if self.ledger:
            lines.insert(-2, f"  ledger     {self._recorded()}")
        if self.dropped:
            lines.insert(3, f"  dropped    {self._dropped()}")
        if self.synthetic_parts:
            lines.insert(
                1, f"  SYNTHETIC ENGINES, not a real run: {', '.join(self.synthetic_parts)}"
            )
        lines += [f"  DOES NOT ADD UP: {sentence}" for sentence in self.check_identities()]
        return "\n".join(lines)

    def waiting(self) -> str:
        """Who waited for whom, in one sentence."""
        trainers = _causes(self.trainer_waits, self.trainer_wait_fraction)
        generators = _causes(self.generator_waits, self.generator_wait_fraction)
        return f"trainers {trainers}; generators {generators}"

    def _recorded(self) -> str:
        lost = int(self.ledger["groups_lost"])
        return (
            f"{int(self.ledger['groups'])} groups at {number(self.ledger['bytes_per_group'])} bytes"
            + (f", {lost} LOST" if lost else "")
        )

    def _dropped(self) -> str:
        most_first = sorted(self.dropped.items(), key=lambda item: -item[1])
        named = ", ".join(f"{reason} {count}" for reason, count in most_first)
        return f"{sum(self.dropped.values())} ({named})"

    def _headline(self) -> str:
        return (
            f"{self.steps} steps in {duration(self.wall_s)} ({self.ended_by}); first step after "
            f"{duration(self.time_to_first_step_s)}"
        )


def _causes(waits: dict[str, float], total: float) -> str:
    named = [f"{percent(share)} for {cause}" for cause, share in waits.items() if share >= 0.005]
    return ", ".join(named) if named else f"{percent(total)} of the time"


def _is_negative(value: object) -> bool:
    return isinstance(value, int | float) and value < 0
