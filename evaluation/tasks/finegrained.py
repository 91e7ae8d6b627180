"""Fine-grained classification by logistic regression: the paper's nine data sets, or any other."""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.data import load_data
from evaluation.errors import EvaluationError
from evaluation.feature_sharing import raised_by_all
from evaluation.finegrained.metrics import METRICS
from evaluation.finegrained.one_set import TASK_NAME, judge_on
from evaluation.finegrained.settings import Settings
from evaluation.finegrained.suite import BY_NAME, NINE, SuiteSet
from evaluation.results import Result

MEAN = "mean of the nine"


class FineGrained:
    """L-BFGS logistic regression, the penalty chosen on a validation part."""

    name = TASK_NAME
    help = "logistic regression on features: the paper's nine fine-grained data sets, or any other"

    def add_options(self, group: "argparse._ArgumentGroup") -> None:
        """Options beside --data."""
        usual = Settings()
        group.add_argument(
            "--data-root",
            type=Path,
            metavar="DIR",
            help="folder with the nine data sets, as torchvision lays them out; instead of --data",
        )
        group.add_argument(
            "--only",
            nargs="+",
            choices=[one.name for one in NINE],
            metavar="NAME",
            help=f"of the nine only these: {', '.join(one.name for one in NINE)} (default all)",
        )
        group.add_argument(
            "--metric",
            choices=list(METRICS),
            help="with --data (default top1, or map_11point where images have several classes)",
        )
        group.add_argument(
            "--l2-values",
            type=int,
            default=usual.num_l2_values,
            metavar="N",
            help="penalties tried, log-spaced from 1e-6 to 1e5 (default %(default)s)",
        )
        group.add_argument(
            "--max-iterations",
            type=int,
            default=usual.max_iterations,
            metavar="N",
            help="of L-BFGS, for each fit (default %(default)s)",
        )
        group.add_argument(
            "--tolerance",
            type=float,
            default=usual.tolerance,
            metavar="G",
            help="largest entry of the mean loss's gradient at which a fit has converged "
            "(default %(default)g)",
        )

    def run(
        self, backbone: FrozenBackbone, options: argparse.Namespace, bench: Bench
    ) -> Sequence[Result]:
        """A result for each data set, and the mean if all nine are there.

        Raises:
            EvaluationError: an option or the data cannot be used; of the nine, if none can.
        """
        settings = Settings(options.l2_values, options.max_iterations, options.tolerance)
        if options.data_root is None:
            return [_one(backbone, options, settings, bench)]
        if options.data is not None:
            raise EvaluationError("give --data-root for the nine, or --data for another; not both.")
        if options.metric is not None:
            raise EvaluationError("--metric goes with --data; each of the nine has its own.")
        only = options.only or BY_NAME
        wanted = [one for one in NINE if one.name in only]
        return _suite(backbone, wanted, options.data_root.expanduser(), settings, bench)


def _one(
    backbone: FrozenBackbone, options: argparse.Namespace, settings: Settings, bench: Bench
) -> Result:
    if options.data is None:
        raise EvaluationError(
            "--task finegrained: give --data-root DIR for the nine data sets, or --data NAME."
        )
    if options.only is not None:
        raise EvaluationError("--only goes with --data-root.")
    metric = None if options.metric is None else METRICS[options.metric]
    return judge_on(backbone, options.data, metric=metric, settings=settings, bench=bench)


def _suite(
    backbone: FrozenBackbone,
    wanted: Sequence[SuiteSet],
    root: Path,
    settings: Settings,
    bench: Bench,
) -> list[Result]:
    """Those that are there; what is wrong with the others is said, if possible before any work."""
    results: list[Result] = []
    for one in _present(wanted, root, bench):
        try:
            result = judge_on(
                backbone,
                one.data_name(root),
                shown=one.name,
                metric=one.metric,
                settings=settings,
                bench=bench,
            )
        except EvaluationError as error:
            bench.say(f"{one.name} left out: {error}")
        else:
            results.append(result)
    done = {result.data for result in results}
    left_out = [one.name for one in wanted if one.name not in done]
    if not results:
        raise EvaluationError(
            f"--data-root {root}: {', '.join(left_out)} cannot be used; what each needs is said "
            "above."
        )
    if len(results) == len(NINE):
        results.append(_mean(backbone, results))
    elif left_out:
        bench.say(f"{backbone.name}: no mean of the nine without {', '.join(left_out)}")
    return results


def _present(wanted: Sequence[SuiteSet], root: Path, bench: Bench) -> list[SuiteSet]:
    """Those whose files are there, on all ranks."""
    present = []
    for one in wanted:
        try:
            with raised_by_all(bench):
                load_data(one.data_name(root))
        except EvaluationError as error:
            bench.say(f"{one.name} left out: {error}")
        else:
            present.append(one)
    return present


def _mean(backbone: FrozenBackbone, results: Sequence[Result]) -> Result:
    scores = {result.data: next(iter(result.metrics.values())) for result in results}
    return Result(
        backbone=backbone.name,
        task=TASK_NAME,
        data=MEAN,
        metrics={"mean": statistics.fmean(scores.values())},
        details={"scores": scores},
    )


TASK = FineGrained()
