"""The console's picture of a run, drawn by rich from a state alone."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from online_synclr.monitor import metrics
from online_synclr.monitor.console_state import ConsoleState, GeneratorLine
from online_synclr.monitor.formats import duration, num_bytes, number, percent
from online_synclr.monitor.hints import diagnose
from online_synclr.monitor.roles import RunRoles

MAX_GENERATOR_ROWS = 8
MAX_EVENTS = 5
HEALTHY = frozenset({"running", "draining", "ended"})


def draw(state: ConsoleState) -> RenderableType:
    """The whole view, the most important first: a low terminal cuts the generators off."""
    parts: list[RenderableType] = []
    announcement = state.roles.announcement()
    if announcement:
        parts.append(Text(announcement, style="bold black on yellow"))
    parts.append(_progress(state))
    parts.append(_sides(state))
    if state.training:
        parts.append(_learning(state))
        parts.append(_advice(state))
    parts.extend(
        Text(f"{duration(event.elapsed_s)}  {event.text}", style="yellow")
        for event in state.events[-MAX_EVENTS:]
    )
    if state.generators:
        parts += [Text(""), _generator_table(state)]
    title = f"[b]Online SynCLR[/b]  {_escape(state.run_dir)}"
    return Panel(Stack(*parts), title=title, title_align="left", box=box.ROUNDED)


def plain_line(state: ConsoleState) -> str:
    """One line with what matters most, for a log file."""
    head = f"[{duration(state.elapsed_s)}]"
    if not state.training:
        step = f"step {state.step}/{state.total_steps}; " if state.step else ""
        return f"{head} {step}{state.phase}; generators: {count_states(state.generators)}"
    scalars = state.scalars
    share = percent(state.step / state.total_steps)
    parts = [
        f"{head} step {state.step}/{state.total_steps} ({share}, {duration(state.left_s)} left)",
        f"loss {number(scalars.get(metrics.LOSS_TOTAL))}",
        f"images/s {number(scalars.get(metrics.GENERATOR_IMAGES))} rendered "
        f"{number(scalars.get(metrics.TRAINER_UNIQUE_IMAGES))} new "
        f"{number(scalars.get(metrics.TRAINER_IMAGE_USES))} used",
        f"reuse {number(_reuse(scalars))} (set {number(scalars.get(metrics.POOL_REUSE))})",
        f"pool {number(scalars.get(metrics.POOL_GROUPS))} groups",
        f"waits groups {percent(scalars.get(metrics.WAIT_GROUPS))} credits "
        f"{percent(scalars.get(metrics.WAIT_CREDITS))} captions "
        f"{percent(scalars.get(metrics.WAIT_CAPTIONS))}",
        f"refused captions {percent(scalars.get(metrics.CAPTIONS_REJECTED_SHARE))} groups "
        f"{percent(scalars.get(metrics.GROUPS_REJECTED_SHARE))}",
    ]
    parts += [f"kNN {state.knn}"] if state.knn else []
    parts += [state.phase] if state.phase != "training" else []
    return " | ".join(parts)


def count_states(generators: Sequence[GeneratorLine]) -> str:
    """`5 running, 1 loading`, or that none has called yet."""
    counts = Counter(line.state for line in generators)
    if not counts:
        return "none has called yet"
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def describe_roles(roles: RunRoles) -> str:
    """Both sides on one line: `2 generators on cuda:1, cuda:2; 1 trainer on cuda:0`."""
    return f"{_generators_title(roles)}; {_trainers_title(roles)}"


def describe_side(count: int, noun: str, devices: Sequence[str]) -> str:
    """`6 generators on cuda:2-7`; devices that repeat are counted, not repeated."""
    plural = f"{count} {noun}{'' if count == 1 else 's'}"
    names = list(dict.fromkeys(devices))
    if not names:
        return plural
    shown = _span(names) or (names if len(names) <= 4 else [names[0], "…", names[-1]])
    return f"{plural} on {', '.join(shown)}"


def _span(names: Sequence[str]) -> list[str]:
    """`cuda:2`, `cuda:3`, `cuda:4` -> `cuda:2-4`; empty where the names are no such row."""
    stem, colon, first = names[0].rpartition(":")
    if len(names) < 3 or not colon or not first.isdigit():
        return []
    row = [f"{stem}:{int(first) + offset}" for offset in range(len(names))]
    return [f"{names[0]}-{int(first) + len(names) - 1}"] if row == list(names) else []


def _progress(state: ConsoleState) -> RenderableType:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    if not state.training:
        waiting = f"{state.phase} … {duration(state.elapsed_s)}"
        note = f"step {state.step} / {state.total_steps}" if state.step else "before the first step"
        grid.add_row(Text(waiting, style="bold cyan"), Text(note, style="dim"))
        return grid
    numbers = (
        f"step {state.step} / {state.total_steps}   {percent(state.step / state.total_steps)}   "
        f"{duration(state.elapsed_s)} gone   {duration(state.left_s)} left"
    )
    grid.add_row(ProgressBar(total=state.total_steps, completed=state.step), Text(numbers))
    return grid


def _sides(state: ConsoleState) -> Table:
    roles, get = state.roles, state.scalars.get
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    table.add_column("", style="dim", no_wrap=True)
    table.add_column(_generators_title(roles), style="green", ratio=1)
    table.add_column(_trainers_title(roles), style="cyan", ratio=1)
    if not state.training:
        table.add_row("state", count_states(state.generators), state.phase)
        return table
    table.add_row(
        "images/s",
        number(get(metrics.GENERATOR_IMAGES)),
        f"{number(get(metrics.TRAINER_UNIQUE_IMAGES))} new, "
        f"{number(get(metrics.TRAINER_IMAGE_USES))} with reuse",
    )
    table.add_row(
        "per second",
        f"{number(get(metrics.GENERATOR_CAPTIONS))} captions",
        f"{number(get(metrics.TRAINER_STEPS))} steps",
    )
    table.add_row(
        "refused",
        f"captions {percent(get(metrics.CAPTIONS_REJECTED_SHARE))}, "
        f"groups {percent(get(metrics.GROUPS_REJECTED_SHARE))}",
        "",
    )
    table.add_row(
        "waiting",
        f"credits {percent(get(metrics.WAIT_CREDITS))}, "
        f"captions {percent(get(metrics.WAIT_CAPTIONS))}",
        f"groups {percent(get(metrics.WAIT_GROUPS))}, "
        f"other trainers {percent(get(metrics.WAIT_VOTE))}",
    )
    return table


def _generators_title(roles: RunRoles) -> str:
    return describe_side(len(roles.generators), "generator", roles.generator_devices)


def _trainers_title(roles: RunRoles) -> str:
    return describe_side(roles.num_trainers, "trainer", roles.trainer_devices)


def _generator_table(state: ConsoleState) -> RenderableType:
    if len(state.generators) > MAX_GENERATOR_ROWS:
        worst = [line for line in state.generators if line.error and line.state not in HEALTHY]
        heading = Text(f"generators: {count_states(state.generators)}", style="green")
        return Stack(
            heading,
            *(Text(f"  {line.generator}: {line.error}") for line in worst[:MAX_GENERATOR_ROWS]),
        )
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    for title in ("generator", "state", "captions", "images", "images/s", "share", "restarts"):
        numeric = title not in {"generator", "state"}
        table.add_column(title, justify="right" if numeric else "left", no_wrap=numeric)
    for line in state.generators:
        table.add_row(*_generator_cells(state, line))
    return table


def _generator_cells(state: ConsoleState, line: GeneratorLine) -> list[str | Text]:
    get = state.scalars.get
    healthy = line.state in HEALTHY
    # An engine that runs again is well, whatever ended the one before it.
    status = f"{line.state}: {line.error}" if line.error and not healthy else line.state
    rates = (
        number(get(metrics.of_generator(line.generator, "images_per_s"))),
        percent(get(metrics.of_generator(line.generator, "share"))),
    )
    return [
        line.generator,
        Text(status, style="green" if healthy else "yellow"),
        number(line.captions),
        number(line.images),
        *(rates if line.connected else (number(None), percent(None))),
        str(line.restarts),
    ]


def _learning(state: ConsoleState) -> Text:
    get = state.scalars.get
    text = Text().append(f"loss {number(get(metrics.LOSS_TOTAL))}", style="bold")
    if state.knn:
        text.append(f"   kNN {state.knn}", style="bold")
    text.append(f"   reuse {number(_reuse(state.scalars))} (set {number(get(metrics.POOL_REUSE))})")
    held, held_bytes = get(metrics.POOL_GROUPS), get(metrics.POOL_BYTES)
    text.append(f"   pool {number(held)} groups, {num_bytes(held_bytes)}")
    unused = get(metrics.POOL_EVICTED_UNUSED)
    if unused:
        text.append(f"   {number(unused)} evicted unused", style="yellow")
    return text


def _reuse(scalars: Mapping[str, float]) -> float | None:
    """Uses of a group for each new group, recently."""
    uses = scalars.get(metrics.TRAINER_IMAGE_USES)
    unique = scalars.get(metrics.TRAINER_UNIQUE_IMAGES)
    return uses / unique if uses is not None and unique else None


def _advice(state: ConsoleState) -> RenderableType:
    hint = diagnose(state.scalars, state.max_reuse, state.shape)
    if hint is None:
        return Text("")
    return Text(
        f"→ {hint.text}", style="bold green" if hint.bottleneck == "none" else "bold magenta"
    )


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
