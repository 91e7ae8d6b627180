"""What a monitor writes, read back with TensorBoard's own reader."""

import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from online_synclr.monitor import append_file, metrics
from online_synclr.monitor.console_state import ConsoleState, GeneratorLine
from online_synclr.monitor.jsonl import JsonlLog, read_jsonl
from online_synclr.monitor.monitor import Monitor
from online_synclr.monitor.roles import RunRoles
from tests.monitor_helpers import CAPTIONS, make_config, make_group, make_roles, make_scalars


def open_monitor(folder: Path, resume_step: int = 0, **options: object) -> Monitor:
    roles = make_roles(**options)  # type: ignore[arg-type]
    return Monitor(
        make_config(),
        folder,
        roles,
        resume_step,
        Console(file=io.StringIO()),
        clock=lambda: 1e9,
    )


def read_board(folder: Path) -> EventAccumulator:
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    reader.Reload()
    return reader


def texts(reader: EventAccumulator, tag: str) -> list[str]:
    return [event.tensor_proto.string_val[0].decode() for event in reader.Tensors(tag)]


def test_jsonl_and_tensorboard_carry_the_same(tmp_path: Path) -> None:
    monitor = open_monitor(tmp_path)
    scalars = make_scalars()
    for step in (1, 2, 3):
        monitor.log_step(step, {name: value * step for name, value in scalars.items()})
    monitor.close()
    assert monitor.failures == {}
    reader = read_board(tmp_path / "tb")
    assert set(reader.Tags()["scalars"]) == set(scalars)
    lines = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert [line["step"] for line in lines] == [1, 2, 3]
    for name in scalars:
        curve = [(e.step, e.value, e.wall_time) for e in reader.Scalars(name)]
        assert curve == [
            (line["step"], pytest.approx(line[name], rel=1e-6), line["time_s"]) for line in lines
        ]


def test_both_sides_can_be_laid_over_each_other(tmp_path: Path) -> None:
    monitor = open_monitor(tmp_path)
    monitor.log_step(1, make_scalars())
    monitor.close()
    for side in metrics.SIDES:
        reader = read_board(tmp_path / "tb" / side)
        assert set(reader.Tags()["scalars"]) == set(metrics.BALANCE)
        for tag, sources in metrics.BALANCE.items():
            assert reader.Scalars(tag)[0].value == make_scalars()[sources[side]]


def test_charts_have_tooltips(tmp_path: Path) -> None:
    monitor = open_monitor(tmp_path)
    monitor.log_step(1, {metrics.LOSS_TOTAL: 1.0})
    monitor.close()
    reader = read_board(tmp_path / "tb")
    described = reader.SummaryMetadata(metrics.LOSS_TOTAL).summary_description
    assert described == metrics.METRICS[metrics.LOSS_TOTAL].description


def test_pictures_texts_and_the_layout_are_there(tmp_path: Path) -> None:
    monitor = open_monitor(tmp_path, synthetic=("images.backend=synthetic",))
    monitor.log_groups(5, [make_group(0), make_group(1, num_images=2)])
    monitor.event("generator gen-1 died")
    monitor.close()
    assert monitor.failures == {}
    reader = read_board(tmp_path / "tb")
    (picture,) = reader.Images(metrics.PICTURE_GROUPS)
    assert picture.step == 5
    captions = texts(reader, metrics.PICTURE_CAPTIONS)[0]
    assert CAPTIONS[0] in captions
    assert "7/1/2/1" in captions
    assert "&lt;counter&gt;" in captions
    assert "generator gen-1 died" in texts(reader, "run/events")[-1]
    assert "SYNTHETIC" in texts(reader, "run/about")[0]
    assert metrics.LOSS_MIM in texts(reader, "run/what_the_curves_mean")[0]
    assert "samples_per_insert" in texts(reader, "run/config")[0]
    layout = layout_pb2.Layout.FromString(
        reader.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    tags = {tag for c in layout.category for chart in c.chart for tag in chart.multiline.tag}
    assert {"^balance/images_per_s$", "^balance/waiting$", f"^{metrics.POOL_REUSE}$"} <= tags


def test_sample_files_are_whole_and_only_the_last_few_stay(tmp_path: Path) -> None:
    monitor = open_monitor(tmp_path)
    for step in range(1, 9):
        monitor.log_groups(step, [make_group(0, side_px=300), make_group(1, num_images=1)])
    monitor.close()
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == [f"groups_{step:09d}.png" for step in range(4, 9)]
    with Image.open(tmp_path / "samples" / names[-1]) as picture:
        picture.load()
        assert min(picture.size) > 300


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    first = open_monitor(tmp_path)
    for step in (1, 2, 3, 4):
        first.log_step(step, {metrics.LOSS_TOTAL: float(step)})
        first.log_groups(step, [make_group(0)])
    first.close()
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"step": 5, "tim')
    second = open_monitor(tmp_path, resume_step=2)
    pictures = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert pictures == ["groups_000000001.png", "groups_000000002.png"]
    second.log_step(3, {metrics.LOSS_TOTAL: 30.0})
    second.close()
    expected = [(1, 1.0), (2, 2.0), (3, 30.0)]
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert [(line["step"], line[metrics.LOSS_TOTAL]) for line in lines] == expected
    reader = read_board(tmp_path / "tb")
    assert [(e.step, e.value) for e in reader.Scalars(metrics.LOSS_TOTAL)] == expected
    assert "continued after step 2" in texts(reader, "run/about")[-1]


def test_starting_anew_keeps_nothing(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        monitor = open_monitor(tmp_path)
        monitor.log_step(0, {metrics.KNN_ACCURACY: value})
        monitor.close()
    lines = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert [line[metrics.KNN_ACCURACY] for line in lines] == [2.0]
    reader = read_board(tmp_path / "tb")
    assert [e.value for e in reader.Scalars(metrics.KNN_ACCURACY)] == [2.0]


def test_json_has_no_nan(tmp_path: Path) -> None:
    log = JsonlLog(tmp_path / "metrics.jsonl")
    log.append(1, 2.0, {"a": float("nan"), "b": float("inf"), "c": 1 / 3, "d": 4294967297.0})
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert json.loads(text) == {
        "step": 1,
        "time_s": 2.0,
        "a": None,
        "b": None,
        "c": 0.333333333,
        "d": 4294967297,
    }


def test_a_full_disk_is_said_once_and_leaves_no_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = open_monitor(tmp_path)
    monitor.log_step(1, {metrics.LOSS_TOTAL: 1.0})
    full = FullDisk()
    monkeypatch.setattr(append_file, "os", full)
    monitor.log_step(2, {metrics.LOSS_TOTAL: 2.0})
    monitor.log_step(3, {metrics.LOSS_TOTAL: 3.0})
    monkeypatch.undo()
    monitor.log_step(4, {metrics.LOSS_TOTAL: 4.0})
    assert monitor.failures == {"metrics.jsonl": 2, "TensorBoard": 2}
    assert monitor._console is not None
    said = [event.text for event in monitor._console.state.events]
    assert [sum(view in text for text in said) for view in monitor.failures] == [1, 1]
    monitor.close()
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 4]
    reader = read_board(tmp_path / "tb")
    assert [e.step for e in reader.Scalars(metrics.LOSS_TOTAL)] == [1, 4]


class FullDisk(SimpleNamespace):
    """`os` of a full disk: a write takes a few bytes, the next one fails."""

    def __init__(self) -> None:
        super().__init__(fstat=os.fstat, ftruncate=os.ftruncate)
        self._left = 0

    def write(self, descriptor: int, data: memoryview) -> int:
        self._left = 5 - self._left
        if not self._left:
            raise OSError(28, "No space left on device")
        return os.write(descriptor, data[: self._left])


def test_a_monitor_that_can_write_nothing_still_lets_the_run_go_on(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way", encoding="utf-8")
    monitor = open_monitor(blocked)
    monitor.log_step(1, {metrics.LOSS_TOTAL: 1.0})
    monitor.log_groups(1, [make_group(0)])
    monitor.update_console(1, {})
    monitor.event("still here")
    monitor.close()
    monitor.close()
    assert {"run folder", "metrics.jsonl", "TensorBoard"} <= set(monitor.failures)


def test_the_console_of_the_newest_pictures_can_be_drawn_again(tmp_path: Path) -> None:
    monitor = open_monitor(tmp_path)
    monitor.update_console(1, {}, phase="training")
    monitor.log_groups(1, [make_group(0)])
    assert not (tmp_path / "console.json").exists()
    line = GeneratorLine(generator="gen-0", state="running", images=12)
    scalars = {metrics.LOSS_TOTAL: 1.5, metrics.OPTIM_GRAD_NORM: float("nan")}
    monitor.update_console(2, scalars, generators=[line])
    monitor.log_groups(2, [make_group(0)])
    monitor.update_console(3, {metrics.LOSS_TOTAL: 1.0})
    monitor.close()
    assert monitor.failures == {}
    state = ConsoleState.load(tmp_path / "console.json")
    assert (state.step, state.scalars, state.generators) == (2, {metrics.LOSS_TOTAL: 1.5}, (line,))


def test_a_metric_that_nobody_declared_is_named_once(tmp_path: Path) -> None:
    monitor = open_monitor(tmp_path)
    for step in (1, 2):
        monitor.log_step(step, {"loss/other": 1.0})
    assert monitor._console is not None
    said = [event.text for event in monitor._console.state.events]
    assert len([text for text in said if "loss/other" in text]) == 1
    monitor.close()


def test_roles_are_kept_with_the_run(tmp_path: Path) -> None:
    open_monitor(tmp_path).close()
    data = json.loads((tmp_path / "roles.json").read_text(encoding="utf-8"))
    assert RunRoles.from_dict(data) == make_roles()


def test_tensorboard_can_be_left_out(tmp_path: Path) -> None:
    config = make_config(monitor={"tensorboard": False})
    monitor = Monitor(config, tmp_path, make_roles(), console=Console(file=io.StringIO()))
    monitor.log_step(1, {metrics.LOSS_TOTAL: 1.0})
    monitor.log_groups(1, [make_group(0)])
    monitor.close()
    assert monitor.failures == {}
    assert not (tmp_path / "tb").exists()
