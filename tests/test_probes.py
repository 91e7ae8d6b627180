"""When probes begin, what they may take, and that votes go on beside them; with fakes."""

from collections.abc import Callable, Mapping

import pytest
import torch

from online_synclr.config import Config
from online_synclr.monitor import metrics
from online_synclr.monitor.waits import WaitClock
from tests.tiny_objective import IMAGES, NUM_GROUPS, tiny_config
from tests.tiny_step import ALONE, tiny_batch, tiny_step
from trainer.evaluation.embedding_measures import alignment, rankme, uniformity
from trainer.objective import gather
from trainer.objective.model import TeacherOutput
from trainer.probes import Probes

STEPS = 1000


class FakeKnn:
    """A measurement of `slices` slices, the last of which finds `accuracy`."""

    def __init__(self, slices: int = 3, accuracy: float = 0.25) -> None:
        self._slices = slices
        self._left = 0
        self._accuracy = accuracy
        self.begun = 0

    @property
    def under_way(self) -> bool:
        return self._left > 0

    @property
    def at_last_slice(self) -> bool:
        return self._left == 1

    def begin(self) -> None:
        self.begun += 1
        self._left = self._slices

    def advance(self) -> float | None:
        self._left -= 1
        return None if self._left else self._accuracy

    def measure(self) -> float:
        return self._accuracy


class Logged:
    """What was logged, in order."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self.lines.append((step, dict(values)))

    def steps(self, name: str) -> list[int]:
        return [step for step, values in self.lines if name in values]


def config_of(**monitor: object) -> Config:
    config = tiny_config(steps=STEPS)
    given = {"knn_every_steps": 0, "embeddings_every_steps": 0, **monitor}
    return config.model_copy(update={"monitor": config.monitor.model_copy(update=given)})


def probes_of(
    config: Config, knn: FakeKnn | None = None, logged: Callable[..., None] = lambda *_: None
) -> Probes:
    return Probes(config, ALONE, knn=knn, waits=WaitClock(), log=logged)  # type: ignore[arg-type]


def test_knn_begins_when_it_is_due_and_takes_one_slice_after_each_step() -> None:
    knn, logged = FakeKnn(slices=3), Logged()
    probes = probes_of(config_of(knn_every_steps=10), knn, logged)
    probes.note(spent_s=0.0, elapsed_s=1e6)
    left = []
    for step in range(1, 31):
        probes.after_step(step)
        left.append(knn._left)
    assert left[9:13] == [2, 1, 0, 0], "never two slices between two votes"
    assert knn.begun == 3
    assert logged.steps(metrics.KNN_ACCURACY) == [12, 22]
    assert [values[metrics.KNN_STEP] for _, values in logged.lines] == [10, 20]
    assert logged.lines[0][1][metrics.KNN_ACCURACY] == 0.25


def test_one_that_is_under_way_is_not_begun_again_and_the_end_has_its_own() -> None:
    knn, logged = FakeKnn(slices=15), Logged()
    probes = probes_of(config_of(knn_every_steps=10), knn, logged)
    probes.note(spent_s=0.0, elapsed_s=1e6)
    for step in range(1, 41):
        probes.after_step(step)
    assert logged.steps(metrics.KNN_ACCURACY) == [24]
    assert knn.begun == 2, "at steps 10 and 30"
    ended = FakeKnn()
    probes_of(config_of(knn_every_steps=10), ended, logged).after_step(STEPS)
    assert ended.begun == 0
    assert probes.measure_knn(STEPS) == 0.25
    assert logged.lines[-1][1][metrics.KNN_STEP] == STEPS


def test_nothing_begins_that_the_budget_does_not_allow() -> None:
    knn = FakeKnn()
    config = config_of(knn_every_steps=10, embeddings_every_steps=10, max_probe_share=0.02)
    probes = probes_of(config, knn)
    probes.note(spent_s=3.0, elapsed_s=100.0)
    probes.before_step(9)
    probes.after_step(10)
    assert knn.begun == 0
    assert not probes._embeddings.collecting
    probes.note(spent_s=3.0, elapsed_s=200.0)
    probes.before_step(19)
    probes.after_step(20)
    assert knn.begun == 1
    assert not probes.spent_s < 0


def test_without_labelled_images_there_is_no_accuracy() -> None:
    probes = probes_of(config_of(knn_every_steps=1))
    probes.after_step(1)
    assert probes.measure_knn(0) is None


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_embeddings_are_those_of_the_teachers_pass_of_the_steps_before(micro_batches: int) -> None:
    """24 rows at 12 images a step: collected in the two steps before one that is due."""
    logged = Logged()
    config = config_of(embeddings_every_steps=3, embeddings=24)
    trainer = config.trainer.model_copy(update={"micro_batches": micro_batches})
    config = config.model_copy(update={"trainer": trainer})
    probes = probes_of(config, logged=logged)
    train = tiny_step(config)
    seen: list[TeacherOutput] = []
    ids: list[torch.Tensor] = []

    def on_teacher(output: TeacherOutput, batch: object) -> None:
        seen.append(output)
        ids.append(batch.captions_N2)  # type: ignore[attr-defined]
        probes.take(output, batch)  # type: ignore[arg-type]

    train.on_teacher = on_teacher
    for step in range(3):
        probes.before_step(step)
        train(tiny_batch(config, step), step)
        probes.after_step(step + 1)
    ((step, values),) = logged.lines
    assert step == 3
    keys = torch.cat([output.keys_KZ for output in seen[1:]])
    features = torch.cat([output.features_KE for output in seen[1:]])
    alone = gather.Trainers()
    assert keys.shape[0] == 24 == 2 * NUM_GROUPS * IMAGES
    assert values[metrics.EMBEDDINGS_ALIGNMENT] == pytest.approx(alignment(keys, IMAGES, alone))
    assert values[metrics.EMBEDDINGS_UNIFORMITY] == pytest.approx(
        uniformity(keys, torch.cat(ids[1:]), alone)
    )
    assert values[metrics.EMBEDDINGS_RANKME] == pytest.approx(rankme(features, alone))
    assert values[metrics.EMBEDDINGS_RANKME_PROJECTIONS] == pytest.approx(rankme(keys, alone))
    assert values[metrics.PROBE_EMBEDDINGS_S] > 0


def test_a_batch_that_is_larger_than_needed_gives_whole_groups_only() -> None:
    config = config_of(embeddings_every_steps=1, embeddings=3)
    probes = probes_of(config, logged=(logged := Logged()))
    train = tiny_step(config)
    train.on_teacher = probes.take
    probes.before_step(0)
    train(tiny_batch(config, 0), 0)
    probes.after_step(1)
    assert logged.lines[0][1][metrics.EMBEDDINGS_RANKME] <= 4.01


def test_the_share_counts_from_the_first_step() -> None:
    probes = probes_of(config_of(), FakeKnn())
    probes.measure_knn(0)
    assert probes.spent_s > 0
    probes.start()
    assert probes.spent_s == 0
