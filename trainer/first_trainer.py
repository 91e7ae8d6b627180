"""What trainer 0 does beside training: metrics, pictures, words for people.

None of it waits for anybody.
"""

from collections.abc import Mapping, Sequence

from online_synclr.config import Config
from online_synclr.monitor import metrics
from online_synclr.monitor.formats import duration
from online_synclr.monitor.monitor import Monitor
from trainer.failures import FailureReport, FailureTeller, failures_of
from trainer.figures import Figures
from trainer.generator_watch import GeneratorWatch
from trainer.intake import Sampled
from trainer.objective.schedules import StepSettings
from trainer.report import GeneratorReport, Merged, merge_generators, peer_report
from trainer.roll_call import RollCall
from trainer.vote import Decision


class FirstTrainer:
    """Trainer 0's side of the loop."""

    def __init__(
        self,
        config: Config,
        *,
        monitor: Monitor,
        figures: Figures,
        watch: GeneratorWatch,
        start_step: int,
    ) -> None:
        self._config = config
        self._monitor = monitor
        self._watch = watch
        self._start_step = start_step
        self._roll_call = RollCall()
        self._teller = FailureTeller()
        self.figures = figures
        self.final_loss: float | None = None
        """Mean loss of the last logged window."""

    def say(self, text: str) -> None:
        """A line for people."""
        self._monitor.event(text)

    def show_phase(self, step: int, phase: str) -> None:
        """Tell the console what goes on."""
        self._monitor.update_console(step, {}, phase=phase, generators=self._watch.lines())

    def show_waiting(self, step: int, decision: Decision) -> None:
        """Groups are short: show who lacks them."""
        # Where everything is refused no step comes, and with it no report of all trainers.
        peers = self._watch.peers()
        self.figures.refusals.note({peer.generator_id: peer.counters for peer in peers})
        self._say_news({peer.generator_id: failures_of(peer) for peer in peers})
        # This trainer's own view alone: who is lost to it may serve the others.
        here = merge_generators([[peer_report(peer) for peer in peers]])
        self._call_roll([generator for generator in here if generator.alive])
        self.show_phase(step, f"waiting for groups ({_named_trainers(decision)})")

    def name_shortage(self, decision: Decision, shortages: Sequence[str]) -> None:
        """Say which trainers are short of which generators.

        Args:
            decision: of the vote.
            shortages: of the starved trainers, in their order (`GeneratorWatch.shortage`).
        """
        lasted = duration(decision.longest_wait_s)
        each = zip(decision.missing, shortages, strict=True)
        named = "; ".join(f"trainer {index}: {shortage}" for index, shortage in each)
        self.say(f"{_named_trainers(decision)} short of groups for {lasted}; {named}")

    def log(self, step: int, merged: Merged, settings: StepSettings) -> None:
        """Write the metrics of a logged step."""
        values = self.figures.metrics(merged, step, settings)
        self.final_loss = values[metrics.LOSS_TOTAL]
        self._monitor.log_step(step, values)
        self._call_roll(merged.generators)
        self._say_news({one.generator_id: one.failures for one in merged.generators})
        lines = self._watch.lines()
        self._monitor.update_console(step, values, phase="training", generators=lines)

    def after_step(self, step: int, sampled: Sequence[Sampled]) -> None:
        """Console and pictures of groups, each at its own pace."""
        monitor = self._config.monitor
        self._monitor.update_console(step, {}, phase="training")
        first = step == self._start_step + 1
        every = monitor.samples_every_steps
        if every and (first or step % every == 0):
            groups = [item.group for item in sampled[: monitor.samples_groups]]
            self._monitor.log_groups(step, groups)

    def log_probe(self, step: int, values: Mapping[str, float]) -> None:
        """Write what a probe has measured."""
        self._monitor.log_scalars(step, values)

    def _call_roll(self, generators: Sequence[GeneratorReport]) -> None:
        for sentence in self._roll_call.changes(generators):
            self.say(sentence)

    def _say_news(self, failures: Mapping[str, Sequence[FailureReport]]) -> None:
        for line in (*self._teller.lines(failures), *self.figures.refusals.take_lines()):
            self.say(line)


def _named_trainers(decision: Decision) -> str:
    names = ", ".join(str(index) for index in decision.missing)
    return f"trainer{'s' if len(decision.missing) > 1 else ''} {names}"
