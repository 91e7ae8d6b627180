"""Runs the kNN task on made-up data, here and on ranks."""

import argparse

import pytest
import torch

from evaluation.bench import Bench
from evaluation.results import Result
from evaluation.splits import SplitName
from evaluation.tasks import knn as knn_task
from tests.feature_fakes import MemoryData, MemorySplit, tiny_backbone

BENCH = Bench(device=torch.device("cpu"), precision="fp32")


def data(*names: SplitName) -> MemoryData:
    sizes = {"train": 90, "val": 33, "test": 41}
    return MemoryData(
        {
            name: MemorySplit(sizes[name], 6, name=f"colours ({name})", seed=number)
            for number, name in enumerate(names)
        }
    )


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    knn_task.TASK.add_options(parser.add_argument_group())
    parser.add_argument("--data", default="colours")
    return parser.parse_args(words)


def judge(source: MemoryData, *words: str, bench: Bench = BENCH) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn_task, "load_data", lambda name: source)
        (result,) = knn_task.TASK.run(tiny_backbone(), options(*words), bench)
    return result
