"""What people see of the supervised phase: metrics.jsonl, TensorBoard, a line now and then."""

import time
from collections.abc import Mapping

from online_synclr.config import Config, resolved_yaml
from online_synclr.monitor import metrics
from online_synclr.monitor.event_file import EventFile
from online_synclr.monitor.guard import Guard
from online_synclr.monitor.jsonl import JsonlLog
from online_synclr.run_folder import RunFolder


class PhaseLog:
    """The first rank's. A view that cannot be written is said once and costs the run nothing."""

    def __init__(self, config: Config, resume_step: int) -> None:
        folder = RunFolder(config.run.dir)
        self._steps = config.trainer.supervised.steps
        self._every_s = config.monitor.console_every_s
        self._said_s = 0.0
        self._guard = Guard(lambda text: print(f"online_synclr: finetune: {text}", flush=True))
        self._jsonl = self._guard.build(
            "metrics.jsonl", lambda: JsonlLog(folder.metrics, resume_step)
        )
        self._board: EventFile | None = None
        if config.monitor.tensorboard:
            purge_step = resume_step + 1 if resume_step else 0
            self._board = self._guard.build(
                "TensorBoard", lambda: EventFile(folder.tensorboard, purge_step)
            )
        if self._board is not None:
            settings = f"```yaml\n{resolved_yaml(config)}```"
            board = self._board
            self._guard.run(
                "TensorBoard", lambda: board.text(resume_step, time.time(), "run/config", settings)
            )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write some metrics of a step."""
        now_s = time.time()
        jsonl, board = self._jsonl, self._board
        if jsonl is not None:
            self._guard.run("metrics.jsonl", lambda: jsonl.append(step, now_s, values))
        if board is not None:
            described = {name: metrics.METRICS[name].description for name in values}
            self._guard.run("TensorBoard", lambda: board.scalars(step, now_s, values, described))
        if metrics.SUPERVISED_LOSS not in values or step == self._steps:
            self._say(step, values)
        elif now_s - self._said_s >= self._every_s:
            self._said_s = now_s
            self._say(step, values)

    def close(self) -> None:
        """Close every file."""
        for view in (self._jsonl, self._board):
            if view is not None:
                self._guard.run("closing", view.close)

    def _say(self, step: int, values: Mapping[str, float]) -> None:
        shown = [f"{_short(name)} {_figure(name, value)}" for name, value in values.items()]
        print(f"step {step}/{self._steps}  {', '.join(shown)}", flush=True)


def _short(name: str) -> str:
    return name.rpartition("/")[2].replace("_", " ").replace("images per s", "images/s")


def _figure(name: str, value: float) -> str:
    if metrics.METRICS[name].unit == "share":
        return f"{100 * value:.1f} %"
    return f"{value:.4g}"
