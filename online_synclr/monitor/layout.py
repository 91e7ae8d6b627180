"""Which curves stand together on TensorBoard's custom scalars page."""

from collections.abc import Sequence
from dataclasses import dataclass

from online_synclr.monitor import metrics


@dataclass(frozen=True)
class Chart:
    """Curves of one chart: exact names, or with `pattern` one regular expression."""

    title: str
    names: Sequence[str] = ()
    pattern: str = ""

    @property
    def tags(self) -> list[str]:
        """Regular expressions of the tags, as TensorBoard matches them."""
        return [self.pattern] if self.pattern else [f"^{name}$" for name in self.names]


@dataclass(frozen=True)
class Category:
    """Charts under one heading; `closed` ones open on a click."""

    title: str
    charts: Sequence[Chart]
    closed: bool = False


BALANCE = Category(
    "Balance: does the split of ranks fit?",
    (
        Chart("Images/s: rendered, and new to the trainers", ("balance/images_per_s",)),
        Chart("Waiting for the other side (share of time)", ("balance/waiting",)),
        Chart("Images/s in batches, reuse included", (metrics.TRAINER_IMAGE_USES,)),
        Chart("Trainers wait (share of time)", (metrics.WAIT_GROUPS, metrics.WAIT_VOTE)),
        Chart(
            "Generators wait (share of time)",
            (metrics.WAIT_CREDITS, metrics.WAIT_CAPTIONS, metrics.WAIT_CAPTIONER),
        ),
        Chart(
            "Reuse allowed, and had (uses per group)", (metrics.POOL_REUSE, metrics.POOL_MEAN_USES)
        ),
        Chart("Pool (groups)", (metrics.POOL_GROUPS, metrics.POOL_CREDITS)),
        Chart("Steps per second", (metrics.TRAINER_STEPS,)),
        Chart("Limiter error (group-uses)", (metrics.POOL_ERROR,)),
    ),
)
LEARNING = Category(
    "Learning",
    (
        Chart(
            "Losses",
            (
                metrics.LOSS_TOTAL,
                metrics.LOSS_GLOBAL,
                metrics.LOSS_LOCAL,
                metrics.LOSS_MIM,
                metrics.LOSS_DISTILLATION,
            ),
        ),
        Chart("kNN accuracy", (metrics.KNN_ACCURACY,)),
        Chart(
            "Alignment and uniformity of projections",
            (metrics.EMBEDDINGS_ALIGNMENT, metrics.EMBEDDINGS_UNIFORMITY),
        ),
        Chart(
            "RankMe (dimensions used)",
            (metrics.EMBEDDINGS_RANKME, metrics.EMBEDDINGS_RANKME_PROJECTIONS),
        ),
        Chart("Time for probes (share of time)", (metrics.PROBE_TIME,)),
        Chart("Gradient norm", (metrics.OPTIM_GRAD_NORM,)),
    ),
)
CAPTIONS = Category(
    "Captions and groups",
    (
        Chart("Distinct so far", (metrics.CAPTIONS_DISTINCT, metrics.CAPTIONS_CONCEPTS)),
        Chart("Share of each source that should be", pattern=r"^shares/[^/]+/in_force$"),
        Chart("Share of each source trained on lately", pattern=r"^shares/[^/]+/trained$"),
        Chart("Rejected so far, by reason", pattern=r"^captions/rejected_.*$"),
        Chart("Groups rejected so far, by reason", pattern=r"^groups/rejected_.*$"),
        Chart(
            "Share rejected lately",
            (metrics.CAPTIONS_REJECTED_SHARE, metrics.GROUPS_REJECTED_SHARE),
        ),
        Chart(
            "Shares that blur the classes",
            (metrics.CAPTIONS_SAME_CONCEPT, metrics.CAPTIONS_REPEATED),
        ),
    ),
)
GENERATORS = Category(
    "Generators one by one",
    (
        Chart("Images per second", pattern=r"^throughput_by_generator/[^/]+/images_per_s$"),
        Chart("Captions per second", pattern=r"^throughput_by_generator/[^/]+/captions_per_s$"),
        Chart("Alive and restarts", (metrics.GENERATORS_ALIVE, metrics.GENERATORS_RESTARTS)),
    ),
)
WASTE = Category(
    "Waste",
    (
        Chart("Evicted so far", (metrics.POOL_EVICTED, metrics.POOL_EVICTED_UNUSED)),
        Chart("Evicted with k uses left", pattern=r"^pool_evictions/uses_left_.*$"),
        Chart(
            "Memory (bytes)",
            (
                metrics.MEMORY_TRAINER,
                metrics.MEMORY_TRAINER_GPU,
                metrics.MEMORY_GENERATOR,
                metrics.POOL_BYTES,
            ),
        ),
    ),
    closed=True,
)
CATEGORIES = (BALANCE, LEARNING, CAPTIONS, GENERATORS, WASTE)


def serialised_layout(categories: Sequence[Category] = CATEGORIES) -> bytes:
    """The layout as TensorBoard's custom scalars plug-in stores it."""
    from tensorboard.plugins.custom_scalar import layout_pb2

    layout = layout_pb2.Layout()
    for category in categories:
        shown = layout.category.add(title=category.title, closed=category.closed)
        for chart in category.charts:
            shown.chart.add(title=chart.title).multiline.tag.extend(chart.tags)
    return bytes(layout.SerializeToString())
