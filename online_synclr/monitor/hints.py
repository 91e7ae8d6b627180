"""Who waits for whom, and what to change about it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from online_synclr.monitor import metrics
from online_synclr.monitor.formats import percent
from online_synclr.planning.advice import Advice, RunShape, advise

NOTABLE = 0.15
"""Waiting below this share of the time is what two sides that fit each other show anyway."""

Bottleneck = Literal["rendering", "captions", "training", "one trainer", "hand-over", "none"]

_NOT_OF_RATES = ("one trainer", "hand-over")
"""Causes that the two sides' rates do not explain."""


@dataclass(frozen=True)
class Hint:
    """The side the run is limited by, and one line of advice.

    `advice`: what the planner's model would change, as far as it gains enough; in `text` as well.
    """

    bottleneck: Bottleneck
    text: str
    advice: Advice | None = None

    @property
    def gist(self) -> tuple[str, str]:
        """What a person would act on: a line that only repeats it need not be read again."""
        return self.bottleneck, "" if self.advice is None else self.advice.split


def diagnose(
    scalars: Mapping[str, float],
    max_reuse: float | None = None,
    shape: RunShape | None = None,
) -> Hint | None:
    """The largest wait explained, or None while no wait has been measured.

    Args:
        scalars: metrics by name; the `wait/` and `capacity/` ones and the reuse in force are read.
        max_reuse: `pool.max_reuse`, so that reuse is not advised where it is spent already.
        shape: of the run, for the split and the reuse that would do more; None: without.
    """
    hint = _largest_wait(scalars, max_reuse)
    if hint is None or shape is None or hint.bottleneck in _NOT_OF_RATES:
        return hint
    advice = advise(scalars, shape)
    if advice is None:
        return hint
    if hint.bottleneck == "none":
        waits = (
            f"trainers wait for groups {percent(scalars[metrics.WAIT_GROUPS])}, generators for "
            f"credits {percent(scalars[metrics.WAIT_CREDITS])}"
        )
        return Hint("none", f"{waits}: {advice.text}", advice)
    return replace(hint, text=f"{hint.text}; {advice.text}", advice=advice)


def _largest_wait(scalars: Mapping[str, float], max_reuse: float | None) -> Hint | None:
    groups, vote, credits, captions = (
        scalars.get(name)
        for name in (
            metrics.WAIT_GROUPS,
            metrics.WAIT_VOTE,
            metrics.WAIT_CREDITS,
            metrics.WAIT_CAPTIONS,
        )
    )
    if groups is None or credits is None:
        return None
    if groups >= NOTABLE and credits >= NOTABLE:
        return _both_wait(groups, credits)
    if groups >= NOTABLE and groups >= (vote or 0.0):
        spent = max_reuse is not None and scalars.get(metrics.POOL_REUSE, 0.0) >= max_reuse
        hint = _trainers_wait(groups, captions or 0.0, reuse_spent=spent)
        return replace(hint, text=hint.text + _refused(hint.bottleneck, scalars))
    if credits >= NOTABLE:
        return _generators_wait(credits)
    if vote is not None and vote >= NOTABLE:
        return _one_trainer_slow(vote)
    return Hint(
        "none", f"neither side waits more than {percent(NOTABLE)} of the time: the split fits"
    )


def _refused(bottleneck: Bottleneck, scalars: Mapping[str, float]) -> str:
    """What of the bottleneck's work is thrown away, where that is much."""
    noun, metric = {
        "captions": ("captions", metrics.CAPTIONS_REJECTED_SHARE),
        "rendering": ("groups", metrics.GROUPS_REJECTED_SHARE),
    }[bottleneck]
    share = scalars.get(metric, 0.0)
    return f"; {percent(share)} of its {noun} are refused" if share >= NOTABLE else ""


def _trainers_wait(groups: float, captions: float, *, reuse_spent: bool) -> Hint:
    reuse = "raise pool.max_reuse" if reuse_spent else "raise pool.samples_per_insert"
    if captions >= NOTABLE:
        return Hint(
            "captions",
            f"trainers wait for groups {percent(groups)}, renderers for captions "
            f"{percent(captions)}: the LLM is the bottleneck; raise captions.batch_captions, use a "
            f"faster model, or {reuse}",
        )
    return Hint(
        "rendering",
        f"trainers wait for groups {percent(groups)}: rendering is the bottleneck; add a "
        f"generator, lower images.steps, or {reuse}",
    )


def _generators_wait(credits: float) -> Hint:
    return Hint(
        "training",
        f"generators wait for credits {percent(credits)}: training is the bottleneck; use fewer "
        "generators and more trainers, or lower pool.samples_per_insert for fresher data",
    )


def _one_trainer_slow(vote: float) -> Hint:
    return Hint(
        "one trainer",
        f"trainers wait for each other {percent(vote)}: one of them is slower or gets fewer "
        "groups; compare their logs",
    )


def _both_wait(groups: float, credits: float) -> Hint:
    return Hint(
        "hand-over",
        f"trainers wait for groups {percent(groups)} and generators for credits "
        f"{percent(credits)}, in turns: raise pool.error_buffer or stream.credits_per_generator",
    )
