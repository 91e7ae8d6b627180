"""`--task knn`: weighted nearest neighbours (Wu et al., arXiv 1805.01978), with DINO's numbers.

The train split is the bank; test, or else val, are the queries. A data set of one split judges each
of its images by all the others. Nothing is trained, and nothing chosen.

Shapes: N images of the bank, Q queries, D features, J numbers of neighbours.
"""

import argparse
from collections.abc import Sequence

import torch
import torch.distributed as dist

from evaluation.backbone import FrozenBackbone
from evaluation.bench import Bench
from evaluation.data import load_data
from evaluation.errors import EvaluationError
from evaluation.features import FeatureTable, extract_features
from evaluation.results import Result
from evaluation.splits import LabelledData, SplitName
from trainer.evaluation.knn import TEMPERATURE, predict

NEIGHBOURS = (10, 20)


class Knn:
    """The task."""

    name = "knn"
    help = "weighted nearest neighbours: top-1 accuracy, nothing is trained"

    def add_options(self, group: "argparse._ArgumentGroup") -> None:
        """Of this task alone."""
        group.add_argument(
            "--neighbours",
            type=int,
            nargs="+",
            default=list(NEIGHBOURS),
            metavar="K",
            help="how many vote; several are reported beside each other (default 10 and 20)",
        )
        group.add_argument(
            "--temperature",
            type=float,
            default=TEMPERATURE,
            help="of a neighbour's weight, exp(cosine / temperature) (default %(default)s)",
        )

    def run(
        self, backbone: FrozenBackbone, options: argparse.Namespace, bench: Bench
    ) -> Sequence[Result]:
        """Judge one backbone."""
        _check(options)
        data = load_data(options.data)
        query_split = _query_split(data)
        bank = extract_features(backbone, data.split("train"), bench)
        queries = query_split and extract_features(backbone, data.split(query_split), bench)
        _check_tables(bank, queries, data, max(options.neighbours))
        accuracies = _accuracies(bank, queries, options, bench)
        num_bank = len(bank.labels)
        details = {
            "bank_split": "train",
            "query_split": query_split or "train, leave-one-out",
            "num_bank_images": num_bank,
            "num_query_images": num_bank if queries is None else len(queries.labels),
            "num_classes": len(bank.class_names),
            "temperature": options.temperature,
        }
        metrics = {
            f"top1_k{number}": accuracy
            for number, accuracy in zip(options.neighbours, accuracies, strict=True)
        }
        return [Result(backbone.name, self.name, data.name, metrics, details)]


TASK = Knn()


def _check(options: argparse.Namespace) -> None:
    if options.data is None:
        raise EvaluationError("--task knn needs --data; give a folder of <class>/<image>, say.")
    if min(options.neighbours) < 1:
        raise EvaluationError(f"--neighbours={min(options.neighbours)}: give 1 or more.")
    if not options.temperature > 0:
        raise EvaluationError(f"--temperature={options.temperature:g}: give more than 0.")


def _query_split(data: LabelledData) -> SplitName | None:
    """None: leave-one-out."""
    if "test" in data.split_names:
        return "test"
    return "val" if "val" in data.split_names else None


def _check_tables(
    bank: FeatureTable, queries: FeatureTable | None, data: LabelledData, most: int
) -> None:
    if bank.labels.ndim > 1:
        raise EvaluationError(
            f"images of {data.name} have several classes each, which neighbours cannot vote on; "
            "use --task finegrained."
        )
    others = len(bank.labels) - (queries is None)
    if most > others:
        raise EvaluationError(
            f"--neighbours={most}, but an image of {data.name} has only {others} to be judged by; "
            "give fewer neighbours."
        )
    if queries is not None and queries.class_names != bank.class_names:
        raise EvaluationError(
            f"train and test of {data.name} have different classes; give them folders of the same "
            "names."
        )


def _accuracies(
    bank: FeatureTable, queries: FeatureTable | None, options: argparse.Namespace, bench: Bench
) -> list[float]:
    """Top-1 at each number of neighbours. Each rank judges its share of the queries."""
    share = slice(bench.rank, None, bench.num_ranks)
    truth_Q = (bank if queries is None else queries).labels
    num_queries = len(truth_Q)
    own = torch.arange(num_queries) if queries is None else queries.features_ND
    predictions_QJ = predict(
        bank.features_ND.to(bench.device),
        bank.labels.to(bench.device),
        own[share].to(bench.device),
        neighbours=options.neighbours,
        temperature=options.temperature,
    )
    num_right_J = (predictions_QJ.cpu() == truth_Q[share, None]).sum(0)
    if bench.group is not None:
        dist.all_reduce(num_right_J, group=bench.group)
    return (num_right_J.double() / num_queries).tolist()
