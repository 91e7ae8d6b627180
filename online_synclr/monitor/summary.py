"""What a run did, in numbers that add up and in words."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from online_synclr.monitor.formats import duration, number, percent
from online_synclr.run_folder import write_durably

_MAX_FAILED_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The whole run, from its first attempt on.

    Counts are of groups unless the name says otherwise; `_s` are seconds; `_fraction` and the
    `_waits` (by cause) are shares of the time since the first step, means over the ranks of a
    side. Rates are means from the first step to the last. `group_uses` counts every use of a
    group in a batch; `groups_trained` those used at least once. kNN accuracies are shares of one,
    None where none was measured. `dropped`: groups, other messages and strangers' connections that
    were not taken in, by reason. `captions_rejected` and `groups_gated`: what the generators
    refused themselves, by reason; `quality_alarms`: what was said about it in the last attempt.
    `generator_shares` are parts of the images rendered, by id; `generator_models` names the models
    of each generator of the last attempt. `failures`: bad ends by generator, the first ones and the
    latest: `time_s` (wall clock), `kind` ("failed": an engine; "silent": nothing was heard any
    more; "out": the generator gave up), `incarnation`, `engine_start` (starts of its engine before
    that one), `stream`, `message`. `ledger`: groups entered, those whose entry was lost, bytes and
    bytes a group. `incarnation`: of the attempt that wrote it; 0: not known. What an attempt did
    after its last checkpoint, and died, is in no count but `thrown_away_steps` (to the last logged
    step): the next attempt starts from the checkpoint's counts. `advice`: the split or reuse that
    would have done more, as far as it gains enough; else empty.
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
    captions_rejected: dict[str, int] = field(default_factory=dict)
    groups_rendered: int = 0
    groups_gated: dict[str, int] = field(default_factory=dict)
    quality_alarms: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    trainer_waits: dict[str, float] = field(default_factory=dict)
    generator_waits: dict[str, float] = field(default_factory=dict)
    generator_shares: dict[str, float] = field(default_factory=dict)
    generator_models: dict[str, str] = field(default_factory=dict)
    generator_restarts: int = 0
    failures: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    attempts: int = 1
    incarnation: int = 0
    thrown_away_steps: int = 0
    checkpoints_failed: int = 0
    ledger: dict[str, float] = field(default_factory=dict)
    knn_before: float | None = None
    knn_after: float | None = None
    final_loss: float | None = None
    ended_by: str = "all steps done"
    advice: str = ""
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
        """Read a file that `write` made; what another version added to it is passed over.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged, or lacks what another version left out: one sentence.
        """
        try:
            return msgspec.convert(json.loads(path.read_text(encoding="utf-8")), cls)
        except (ValueError, msgspec.MsgspecError) as error:
            raise ValueError(
                f"{path} is damaged or of another version ({error}); read it with the version that "
                "wrote it."
            ) from None

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
        refused = self._refused()
        if refused:
            lines.insert(2, f"  refused    {refused}")
        lines[-2:-2] = self._failed()
        if self.advice:
            lines.insert(-3, f"  advice     {self.advice}")
        if self.ledger:
            lines.insert(-2, f"  ledger     {self._recorded()}")
        if self.dropped:
            lines.insert(3, f"  dropped    {self._dropped()}")
        if self.attempts > 1:
            lines.insert(
                -2,
                f"  attempts   {self.attempts}; {self.thrown_away_steps} steps were lost with the "
                "ends of killed ones and taken again",
            )
        if self.checkpoints_failed:
            lines.insert(-2, f"  disk       {self.checkpoints_failed} checkpoints not written")
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
        return f"{sum(self.dropped.values())} ({_most_first(self.dropped)})"

    def _failed(self) -> list[str]:
        """One line a generator that failed, for a few of them: how often, and its first failure."""
        lines = [
            f"  failed     {name}: {len(ends)} time{'s' if len(ends) > 1 else ''}, first: "
            f"{ends[0]['message']}"
            for name, ends in self.failures.items()
            if ends
        ]
        more = len(lines) - _MAX_FAILED_SHOWN
        rest = [f"  failed     {more} more generators, see summary.json"] if more > 0 else []
        return lines[:_MAX_FAILED_SHOWN] + rest

    def _refused(self) -> str:
        """Shares of captions and groups that the generators refused, with reasons; or empty."""
        kinds = [
            ("captions", self.captions_accepted, self.captions_rejected),
            ("groups", self.groups_rendered - sum(self.groups_gated.values()), self.groups_gated),
        ]
        return "; ".join(
            f"{percent(refused / (passed + refused))} of the {noun} ({_most_first(by_reason)})"
            for noun, passed, by_reason in kinds
            if (refused := sum(by_reason.values()))
        )

    def _headline(self) -> str:
        return (
            f"{self.steps} steps in {duration(self.wall_s)} ({self.ended_by}); first step after "
            f"{duration(self.time_to_first_step_s)}"
        )


def _most_first(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{reason} {count}" for reason, count in ordered if count)


def _causes(waits: dict[str, float], total: float) -> str:
    named = [f"{percent(share)} for {cause}" for cause, share in waits.items() if share >= 0.005]
    return ", ".join(named) if named else f"{percent(total)} of the time"


def _is_negative(value: object) -> bool:
    return isinstance(value, int | float) and value < 0
