"""What judging while training costs: blocks of steps with probes and without, in turn.

    python -m benchmarks.probes [--model demo] [--steps 120] [--every 60] [--clock cpu] [a.b=c ...]

Every block takes the same number of steps of one and the same trainer, on a synthetic batch. With
probes they are asked for every `--every` steps, once without a limit and once within
`monitor.max_probe_share`. `extra` is what steps take beyond those without, in the same repeat;
`told` is the trainer's own `probe/time_share` of that block. `--clock cpu` counts this process's
processor time, for machines that others use too.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.flops import synchronise
from benchmarks.measuring import describe, interleave, ratio, spread, table
from benchmarks.step_cases import NUM_IMAGES, SETTINGS, Size, build_networks, synthetic_batch
from online_synclr.config import Config
from online_synclr.monitor.waits import WaitClock
from trainer.distributed import Trainers
from trainer.probes import Probes
from trainer.shared_knn import build_shared_knn
from trainer.step import TrainStep

NO_LIMIT = "monitor.max_probe_share=1.0"
PROBED = ("knn", "embeddings", "both")
"""The first two without a limit, both within their share."""
HEAD = ("probes", "step", "extra", "told", "longest step / median one")


class Block:
    """Steps with one setting of probes; `run` measures a block, the rest is of the last one.

    All blocks of a benchmark train the same networks, so that each step has the same work.
    """

    def __init__(
        self, config: Config, train: TrainStep, options: argparse.Namespace, clock: "Clock"
    ) -> None:
        trainers = Trainers(index=0, size=1, device=torch.device(options.device))
        knn = build_shared_knn(config, train.model.teacher, trainers)
        self._probes = Probes(
            config, trainers, knn=knn, waits=WaitClock(), log=lambda step, values: None
        )
        self._probes.measure_knn(0)
        self._batch = synthetic_batch(config, trainers.device)
        self._train = train
        self._steps = options.steps
        self._log_every = config.monitor.log_every_steps
        self._clock = clock
        self._device = trainers.device
        self.told: list[float] = []
        self.unevenness: list[float] = []

    def run(self) -> float:
        """Seconds a step."""
        probes, times_s = self._probes, []
        probes.start()
        began_s = time.perf_counter()
        for step in range(self._steps):
            started_s = self._clock()
            self._train.on_teacher = probes.take
            probes.before_step(step)
            self._train(self._batch, step)
            probes.after_step(step + 1)
            synchronise(self._device)
            times_s.append(self._clock() - started_s)
            if (step + 1) % self._log_every == 0:
                probes.note(probes.spent_s, time.perf_counter() - began_s)
        self.told.append(probes.spent_s / (time.perf_counter() - began_s))
        self.unevenness.append(max(times_s) / sorted(times_s)[len(times_s) // 2])
        return sum(times_s) / len(times_s)


Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    images = options.images or NUM_IMAGES[device.type][options.model]
    size = Size(options.model, images, (*SETTINGS[device.type][options.model], *options.settings))
    none = ("monitor.embeddings_every_steps=0", "monitor.knn_every_steps=0")
    knn = f"monitor.knn_every_steps={options.every}"
    embeddings = f"monitor.embeddings_every_steps={options.every}"
    cases = {
        "none": none,
        "knn": (*none, knn, NO_LIMIT),
        "embeddings": (*none, embeddings, NO_LIMIT),
        "both": (*none, knn, embeddings),
    }
    cases = {name: cases[name] for name in cases if name in ("none", *options.cases)}
    config = size.config()
    alone = Trainers(index=0, size=1, device=device)
    train = TrainStep(config, model=build_networks(config, device), trainers=alone, incarnation=1)
    blocks = {
        name: Block(size.config(*settings), train, options, CLOCKS[options.clock])
        for name, settings in cases.items()
    }
    values = interleave({name: block.run for name, block in blocks.items()}, options.repeats)
    print(describe("torch", "timm"), end="\n\n")
    print(table(HEAD, [_row(name, blocks[name], values) for name in cases]))


def _row(name: str, block: Block, values: dict[str, list[float]]) -> list[str]:
    extra = ratio(values[name], values["none"])
    return [
        name,
        f"{spread([1e3 * value for value in values[name]]):.0f} ms",
        f"{100 * (extra.median - 1):.1f} % ({100 * (extra.low - 1):.1f} to "
        f"{100 * (extra.high - 1):.1f})",
        f"{100 * spread(block.told[1:]).median:.1f} %",
        f"{spread(block.unevenness[1:]):.2f}",
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", choices=["demo", "S", "B", "L"])
    parser.add_argument("--images", type=int, default=0, help="a step; 0: as fits the model")
    parser.add_argument("--steps", type=int, default=120, help="of a block")
    parser.add_argument("--every", type=int, default=60, help="steps between probes")
    parser.add_argument("--cases", nargs="+", default=[*PROBED], choices=PROBED, help="beside none")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--clock", default="wall", choices=sorted(CLOCKS))
    parser.add_argument("--device", default=device)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("settings", nargs="*", default=[], metavar="a.b=c")
    options = parser.parse_intermixed_args(arguments)
    return options


if __name__ == "__main__":
    main()
