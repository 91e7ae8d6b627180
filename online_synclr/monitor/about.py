"""The texts that explain a run inside TensorBoard, in Markdown."""

from collections.abc import Sequence

from online_synclr.config import Config, resolved_yaml
from online_synclr.monitor import metrics
from online_synclr.monitor.console_state import Event
from online_synclr.monitor.console_view import describe_side
from online_synclr.monitor.formats import duration
from online_synclr.monitor.roles import RunRoles

_READING = """
**Where to look first.** *Custom Scalars* has the curves of both sides on one page.

- `wait/trainer_groups` high: trainers starve. Add generators, lower `images.steps`, or raise
  `pool.samples_per_insert`.
- `wait/generator_credits` high: generators idle. Use fewer of them, or lower
  `pool.samples_per_insert` for fresher data.
- Both low: the split fits.
- *Text*, `run/advice`: the split or the reuse that would do more, from this run's own `capacity/`
  curves.

*Images* shows whole groups as they were trained on; *Text* has their captions, what the curves
mean, the settings, and events.
"""


def run_text(config: Config, roles: RunRoles, resume_step: int) -> str:
    """What takes part in the run and how to read its curves."""
    lines = ["# Online SynCLR"]
    if roles.synthetic_parts:
        lines.append(f"**{roles.announcement()}**")
    start = f"continued after step {resume_step}" if resume_step else "from the start"
    lines.append(
        "\n".join(
            [
                f"- {describe_side(len(roles.generators), 'generator', roles.generator_devices)}",
                f"- {describe_side(roles.num_trainers, 'trainer', roles.trainer_devices)}",
                f"- hosts: {', '.join(roles.hosts)}",
                f"- captions: `{config.captions.backend}` `{config.captions.model}`",
                f"- images: `{config.images.backend}` `{config.images.model}`, "
                f"{config.images.per_caption} a caption, {config.images.steps} steps",
                f"- learner: `{config.trainer.backbone}`, {config.trainer.batch_groups} captions "
                f"x {config.images_per_group} images a step, {config.trainer.steps} steps",
                f"- reuse: {config.pool.samples_per_insert:g} uses a group, at most "
                f"{config.pool.max_reuse}",
                f"- this attempt: {start}",
            ]
        )
    )
    return "\n\n".join([*lines, _READING])


def config_text(config: Config) -> str:
    """The resolved settings."""
    return f"```yaml\n{resolved_yaml(config)}```"


def metrics_text() -> str:
    """What the curves mean."""
    return f"# What these curves mean\n\n{metrics.markdown_list()}"


def events_text(events: Sequence[Event]) -> str:
    """The events so far, newest first."""
    rows = [f"- {duration(event.elapsed_s)}  {event.text}" for event in reversed(events)]
    return "\n".join(rows)
