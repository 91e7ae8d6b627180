"""Every metric's name, unit and meaning, in one place.

The names are the same in TensorBoard and in metrics.jsonl.
`python -m online_synclr.monitor.metrics` prints docs/metrics.md.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from online_synclr.names_kept import MAX_NAMES


@dataclass(frozen=True)
class Metric:
    """One curve, or with a `<field>` in its name a family of curves."""

    name: str
    unit: str
    help: str

    @property
    def description(self) -> str:
        """Unit and meaning, for a chart's tooltip."""
        return f"[{self.unit}] {self.help}"


METRICS: dict[str, Metric] = {}
"""All metrics by name or pattern, in the order shown."""


def _declare(name: str, unit: str, meaning: str) -> str:
    METRICS[name] = Metric(name, unit, meaning)
    return name


LOSS_TOTAL = _declare("loss/total", "nats", "Weighted sum of the losses that is minimised.")
LOSS_GLOBAL = _declare(
    "loss/global", "nats", "Multi-positive contrastive loss, global crops against global crops."
)
LOSS_LOCAL = _declare(
    "loss/local", "nats", "Multi-positive contrastive loss, local crops against global crops."
)
LOSS_MIM = _declare("loss/mim", "nats", "Masked image modelling (iBOT) loss on masked tokens.")
LOSS_DISTILLATION = _declare(
    "loss/distillation",
    "1",
    "Weighted cosine distances of class and patch tokens from the frozen teacher's features.",
)

TRAINER_UNIQUE_IMAGES = _declare(
    "throughput/trainer_unique_images_per_s",
    "images/s",
    "Images trained on for the first time, all trainers, recent window. In balance it equals "
    "generator_images_per_s; image uses are this times the reuse.",
)
TRAINER_IMAGE_USES = _declare(
    "throughput/trainer_image_uses_per_s",
    "images/s",
    "Images in training batches, repeats counted, all trainers, recent window.",
)
TRAINER_STEPS = _declare(
    "throughput/trainer_steps_per_s", "steps/s", "Optimiser steps, recent window."
)
GENERATOR_IMAGES = _declare(
    "throughput/generator_images_per_s",
    "images/s",
    "Images rendered by all generators, recent window.",
)
GENERATOR_CAPTIONS = _declare(
    "throughput/generator_captions_per_s",
    "captions/s",
    "Captions accepted by the filters of all generators, recent window.",
)

_declare(
    "throughput_by_generator/<id>/images_per_s",
    "images/s",
    "Images rendered by one generator, recent window.",
)
_declare(
    "throughput_by_generator/<id>/captions_per_s",
    "captions/s",
    "Captions accepted by the filter of one generator, recent window.",
)
_declare(
    "throughput_by_generator/<id>/share",
    "share",
    "One generator's part of all images rendered so far; equal machines have equal shares.",
)

WAIT_GROUPS = _declare(
    "wait/trainer_groups",
    "share of time",
    "Trainers waited for groups: generation is the bottleneck. Mean over trainers, cumulative "
    "since the first step, like all waits.",
)
WAIT_VOTE = _declare(
    "wait/trainer_vote",
    "share of time",
    "Trainers waited for another trainer before a step: one rank is slower or starved.",
)
WAIT_CREDITS = _declare(
    "wait/generator_credits",
    "share of time",
    "Generators held rendered groups that no trainer asked for: training is the bottleneck.",
)
WAIT_CAPTIONS = _declare(
    "wait/generator_captions",
    "share of time",
    "Renderers waited for captions: the LLM is the bottleneck.",
)
WAIT_CAPTIONER = _declare(
    "wait/captioner_queue_full",
    "share of time",
    "The LLM waited because enough captions lie ready: normal where rendering is the slower part.",
)

CAPACITY_STEPS = _declare(
    "capacity/steps_per_s",
    "steps/s",
    "Steps the trainers would take if they never waited. All capacities are means since the first "
    "step, logged from ten seconds after it; `plan --measured` and the advice are made from them.",
)
CAPACITY_GENERATOR = _declare(
    "capacity/generator_images_per_s",
    "images/s",
    "Images one generator would deliver if it never waited for credits, mean over generators.",
)
CAPACITY_RENDERER = _declare(
    "capacity/renderer_images_per_s",
    "images/s",
    "The same if it never waited for captions either.",
)
CAPACITY_CAPTIONS = _declare(
    "capacity/llm_captions_per_s",
    "captions/s",
    "Captions the LLM of one generator would have accepted if it always had room for them.",
)

STREAM_LOST = _declare(
    "stream/groups_lost", "groups", "Groups that were on their way when a generator or link died."
)
_STREAM_DROPPED = _declare(
    "stream/dropped_<reason>",
    "1",
    "What trainers did not take in so far: groups (`group_`), other messages (`message_`) and "
    "connections of strangers (`stranger_`), by reason.",
)

_GROUPS_REJECTED = _declare(
    "groups/rejected_<reason>",
    "groups",
    "Rendered groups the quality gates refused so far, by reason.",
)
GROUPS_REJECTED_SHARE = _declare(
    "groups/share_rejected",
    "share",
    "Refused of each live generator's last 256 groups; see images.max_rejected_share.",
)

POOL_GROUPS = _declare("pool/groups", "groups", "Groups held by all trainers.")
POOL_BYTES = _declare("pool/bytes", "bytes", "Bytes of the images held by all trainers.")
POOL_AGE = _declare("pool/mean_age_s", "s", "Mean time since the groups held arrived.")
POOL_REUSE = _declare(
    "pool/reuse_in_force",
    "uses/group",
    "Reuse the rate limiter allows now; above pool.samples_per_insert only with adaptive reuse.",
)
POOL_MEAN_USES = _declare(
    "pool/mean_uses", "uses/group", "Uses so far for each group received so far."
)
POOL_EVICTED = _declare(
    "pool/evicted", "groups", "Groups evicted so far, used up or pushed out by newer ones."
)
POOL_EVICTED_UNUSED = _declare(
    "pool/evicted_unused", "groups", "Groups evicted so far that were never trained on: waste."
)
POOL_CREDITS = _declare(
    "pool/credits_in_flight", "groups", "Groups asked for that have not arrived yet."
)
POOL_ERROR = _declare(
    "pool/limiter_error",
    "group-uses",
    "Group-uses that sampling is behind (+) or ahead (-) of reuse times groups received.",
)
_EVICTIONS_LEFT = _declare(
    "pool_evictions/uses_left_<k>", "groups", "Groups evicted so far with k uses still allowed."
)

LEDGER_GROUPS = _declare(
    "ledger/groups", "groups", "Groups entered in the ledger so far: every group at its first use."
)
LEDGER_LOST = _declare(
    "ledger/groups_lost",
    "groups",
    "Groups so far whose entry was lost, because the disk took none for too long; should be 0.",
)
LEDGER_BYTES_PER_GROUP = _declare(
    "ledger/bytes_per_group", "bytes", "Bytes of the ledger for each group that it has on disk."
)
LEDGER_STEP_S = _declare(
    "ledger/step_s",
    "s",
    "Time the training loops have spent on the ledger in this attempt, waits for the disk before "
    "checkpoints included; all trainers.",
)
LEDGER_THREAD_S = _declare(
    "ledger/thread_s",
    "s",
    "Time the ledgers' threads have spent compressing and writing in this attempt; all trainers.",
)

CAPTIONS_RATE = _declare(
    "captions/per_s", "captions/s", "Captions written by the LLMs before filtering, recent window."
)
_CAPTIONS_REJECTED = _declare(
    "captions/rejected_<reason>", "captions", "Captions the filters refused so far, by reason."
)
CAPTIONS_REJECTED_SHARE = _declare(
    "captions/share_rejected",
    "share",
    "Refused of each live generator's last 512 captions; see captions.filter.max_rejected_share.",
)
CAPTIONS_DISTINCT = _declare(
    "captions/distinct", "captions", "Different captions trained on so far: the classes seen."
)
CAPTIONS_CONCEPTS = _declare(
    "captions/distinct_concepts", "concepts", "Different concepts trained on so far."
)
CAPTIONS_SAME_CONCEPT = _declare(
    "captions/same_concept_share",
    "share",
    "Pairs of different captions in a batch that share a concept: possible false negatives.",
)
CAPTIONS_REPEATED = _declare(
    "captions/repeated_share", "share", "Groups trained on whose caption was trained on before."
)

_declare(
    "shares/<source>/in_force",
    "share",
    "Part of the captions that a source of the concept bank should have now: the bank's, or those "
    "of captions.share_schedule. Told of banks with several sources.",
)
_declare(
    "shares/<source>/trained",
    "share",
    "Part that its groups have of those trained on for the first time, recent window. It follows "
    "with the delay of what is written, rendered and held, and lacks what the filters refuse.",
)

OPTIM_LR = _declare("optim/lr", "1", "Learning rate.")
OPTIM_WEIGHT_DECAY = _declare("optim/weight_decay", "1", "Weight decay.")
OPTIM_GRAD_NORM = _declare("optim/grad_norm", "1", "Gradient norm before clipping.")
OPTIM_EMA = _declare("optim/ema", "1", "Momentum of the teacher.")
OPTIM_TEMPERATURE = _declare("optim/temperature", "1", "Temperature of the contrastive loss.")
OPTIM_STUDENT_TEMPERATURE = _declare(
    "optim/student_temperature", "1", "Student temperature of the masked-image loss."
)
OPTIM_TEACHER_TEMPERATURE = _declare(
    "optim/teacher_temperature", "1", "Teacher temperature of the masked-image loss."
)
OPTIM_NON_FINITE = _declare(
    "optim/non_finite_steps", "steps", "Steps so far whose loss or gradient was not finite."
)

SUPERVISED_LOSS = _declare(
    "supervised/loss", "nats", "Cross-entropy with smoothed labels on labelled images (`finetune`)."
)
SUPERVISED_ACCURACY = _declare(
    "supervised/accuracy", "share", "Of the training crops, how many got their image's class."
)
SUPERVISED_VAL_ACCURACY = _declare(
    "supervised/val_accuracy", "share", "The same on the whole images of val/, no augmentation."
)
SUPERVISED_VAL_ACCURACY_EMA = _declare(
    "supervised/val_accuracy_ema", "share", "The same of the average of the network's weights."
)
SUPERVISED_IMAGES = _declare(
    "supervised/images_per_s", "images/s", "Labelled images trained on, all ranks, since last told."
)

KNN_ACCURACY = _declare(
    "knn/accuracy",
    "share",
    "k-nearest-neighbour accuracy of the teacher's features on labelled images.",
)
KNN_STEP = _declare(
    "knn/of_step",
    "steps",
    "Steps after which the weights were what that accuracy is of; measuring goes on beside the "
    "steps after it.",
)
EMBEDDINGS_ALIGNMENT = _declare(
    "embeddings/alignment",
    "1",
    "Mean squared distance of two images of a caption, in the teacher's projections on the unit "
    "sphere; lower is better. docs/probes.md.",
)
EMBEDDINGS_UNIFORMITY = _declare(
    "embeddings/uniformity",
    "1",
    "Log of the mean of exp(-2 d^2) over images of different captions, d their distance there; "
    "lower is better.",
)
EMBEDDINGS_RANKME = _declare(
    "embeddings/rankme",
    "dimensions",
    "Effective rank (RankMe) of the teacher's class tokens: dimensions that are really used.",
)
EMBEDDINGS_RANKME_PROJECTIONS = _declare(
    "embeddings/rankme_projections",
    "dimensions",
    "The same of the teacher's projections, where the loss acts.",
)

PROBE_TIME = _declare(
    "probe/time_share",
    "share of time",
    "What kNN and embeddings have taken of the time since the first step, on the trainer where it "
    "is most; kept below monitor.max_probe_share.",
)
PROBE_KNN_S = _declare("probe/knn_s", "s", "What the last kNN measurement took, all slices.")
PROBE_EMBEDDINGS_S = _declare(
    "probe/embeddings_s", "s", "What the last measurement of the embeddings took."
)

MEMORY_TRAINER = _declare(
    "memory/trainer_rss_bytes", "bytes", "Resident memory of the largest trainer process."
)
MEMORY_TRAINER_GPU = _declare(
    "memory/trainer_gpu_bytes", "bytes", "Peak GPU memory of the trainer that uses most."
)
MEMORY_GENERATOR = _declare(
    "memory/generator_rss_bytes", "bytes", "Resident memory of the largest generator engine."
)

GENERATORS_ALIVE = _declare("generators/alive", "generators", "Generators heard of recently.")
GENERATORS_RESTARTS = _declare("generators/restarts", "restarts", "Engine restarts so far.")

RUN_ATTEMPTS = _declare(
    "run/attempts", "attempts", "Starts of the run so far; more than one after deaths and stops."
)
RUN_THROWN_AWAY = _declare(
    "run/thrown_away_steps",
    "steps",
    "Steps that were lost with the ends of killed attempts, after their last checkpoints.",
)
RUN_CHECKPOINTS_FAILED = _declare(
    "run/checkpoints_failed", "checkpoints", "Checkpoints that could not be written so far."
)

BALANCE: dict[str, dict[str, str]] = {
    "balance/images_per_s": {
        "generators": GENERATOR_IMAGES,
        "trainers": TRAINER_UNIQUE_IMAGES,
    },
    "balance/waiting": {"generators": WAIT_CREDITS, "trainers": WAIT_GROUPS},
}
"""Curves laid over each other in TensorBoard: by side, the metric that is shown once more."""
SIDES = ("generators", "trainers")

PICTURE_GROUPS = "samples/groups"
PICTURE_CAPTIONS = "samples/captions"


_BY_GENERATOR = "throughput_by_generator/"


def is_of_generator(name: str) -> bool:
    """Whether a metric is one of `of_generator`."""
    return name.startswith(_BY_GENERATOR)


def of_generator(generator: str, quantity: str) -> str:
    """`throughput_by_generator/<id>/<quantity>`; quantities: images_per_s, captions_per_s, share.

    Raises:
        KeyError: there is no such quantity.
    """
    return _known(f"{_BY_GENERATOR}{generator}/{quantity}")


def of_source(source: str, quantity: str) -> str:
    """`shares/<source>/<quantity>`; quantities: in_force, trained.

    Raises:
        KeyError: there is no such quantity.
    """
    return _known(f"shares/{source.replace('/', '_')}/{quantity}")


def dropped(reason: str) -> str:
    """`stream/dropped_<reason>`."""
    return _STREAM_DROPPED.replace("<reason>", reason)


def rejected_captions(reason: str) -> str:
    """`captions/rejected_<reason>`."""
    return _CAPTIONS_REJECTED.replace("<reason>", reason)


def rejected_groups(reason: str) -> str:
    """`groups/rejected_<reason>`."""
    return _GROUPS_REJECTED.replace("<reason>", reason)


def evictions_with_uses_left(uses: int) -> str:
    """`pool_evictions/uses_left_<k>`."""
    return _EVICTIONS_LEFT.replace("<k>", str(uses))


@lru_cache(maxsize=MAX_NAMES)
def describe(name: str) -> Metric | None:
    """The metric a name belongs to, families included; None for a name nobody declared."""
    if name in METRICS:
        return METRICS[name]
    return next((METRICS[key] for key, regex in _PATTERNS if regex.fullmatch(name)), None)


def markdown_list() -> str:
    """All metrics for TensorBoard's text panel, whose tables are too narrow for names."""
    return "\n".join(f"- `{item.name}` [{item.unit}] {item.help}" for item in METRICS.values())


def markdown_table() -> str:
    """A table of all metrics, in Markdown."""
    rows = [f"| `{item.name}` | {item.unit} | {item.help} |" for item in METRICS.values()]
    return "\n".join(["| name | unit | meaning |", "| --- | --- | --- |", *rows])


def _known(name: str) -> str:
    if describe(name) is None:
        raise KeyError(name)
    return name


def _pattern(name: str) -> re.Pattern[str]:
    # Ids may hold any character but the slash that separates the parts of a name.
    return re.compile(re.sub(r"<\w+>", "[^/]+", name))


_PATTERNS = [(name, _pattern(name)) for name in METRICS if "<" in name]

_DOCUMENT = """# Metrics

Made by `python -m online_synclr.monitor.metrics > docs/metrics.md`; a test keeps it current.

Every curve has the same name in TensorBoard and in `metrics.jsonl` (one line a logged step:
`step`, `time_s` as wall clock, then names and values; a value that is not finite is null).
"Recent window" is about the last 30 seconds. Figures "so far" count from the run's first attempt.

{table}

TensorBoard also lays the two sides over each other, in two colours: `balance/images_per_s`
(`throughput/generator_images_per_s` and `throughput/trainer_unique_images_per_s`) and
`balance/waiting` (`wait/generator_credits` and `wait/trainer_groups`). They stand in the runs
`tb/generators` and `tb/trainers` and are the same figures once more.

Pictures: `{groups}` shows whole groups, one a row; `{captions}` has their captions and recipes.
"""


def document() -> str:
    """docs/metrics.md, whole."""
    return _DOCUMENT.format(
        table=markdown_table(), groups=PICTURE_GROUPS, captions=PICTURE_CAPTIONS
    )


if __name__ == "__main__":
    print(document(), end="")
