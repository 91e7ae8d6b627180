"""TensorBoard event files, written record by record with TensorBoard's own protocol buffers.

torch's `SummaryWriter` would do, but it writes from a thread of its own: after one failed write
(a full disk) that thread is gone and every later call raises. Here a failed record costs that
record alone, and the process needs no torch.
"""

import io
import os
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from online_synclr.monitor.append_file import AppendFile
from online_synclr.names_kept import MAX_NAMES

_VERSION = "brain.Event:2"
MAX_DESCRIBED = 4 * MAX_NAMES


class EventFile:
    """One attempt's event file in a TensorBoard folder.

    Readers drop what earlier files say about `purge_step` and later steps.
    Every method raises OSError where the record cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int, time_s: float | None = None) -> None:
        now_s = time.time() if time_s is None else time_s
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(now_s):010d}.{purge_step:09d}.{os.getpid()}"
        self._file = AppendFile(folder / name)
        self._described: set[str] = set()
        self._write(event_pb2.Event(wall_time=now_s, file_version=_VERSION))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(wall_time=now_s, step=purge_step, session_log=start))

    def scalars(
        self, step: int, time_s: float, values: Mapping[str, float], help_of: Mapping[str, str]
    ) -> None:
        """All values of a step in one record; `help_of` gives the charts' tooltips by name."""
        summary = summary_pb2.Summary()
        for tag, value in values.items():
            entry = summary.value.add(tag=tag, simple_value=value)
            if tag not in self._described:
                entry.metadata.CopyFrom(_scalar_metadata(help_of.get(tag, "")))
        self._write(event_pb2.Event(wall_time=time_s, step=step, summary=summary))
        if len(self._described) > MAX_DESCRIBED:
            # Curves come and go with their generators; to be described twice does no harm.
            self._described.clear()
        self._described.update(values)

    def image(
        self, step: int, time_s: float, tag: str, encoded: bytes, size: tuple[int, int]
    ) -> None:
        """A PNG or JPEG of `size` (width, height) in pixels."""
        image = summary_pb2.Summary.Image(
            width=size[0], height=size[1], colorspace=3, encoded_image_string=encoded
        )
        summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, image=image)])
        self._write(event_pb2.Event(wall_time=time_s, step=step, summary=summary))

    def text(self, step: int, time_s: float, tag: str, markdown: str) -> None:
        """A Markdown text."""
        # The text plug-in shows a tensor of rank 1 as a table; rank 0 is plain Markdown.
        self._strings(step, time_s, tag, "text", markdown.encode())

    def custom_scalars(self, time_s: float, layout: bytes) -> None:
        """The serialised `Layout` of the custom scalars page."""
        self._strings(0, time_s, "custom_scalars__config__", "custom_scalars", layout)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _strings(self, step: int, time_s: float, tag: str, plugin: str, content: bytes) -> None:
        metadata = summary_pb2.SummaryMetadata(
            plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name=plugin),
            data_class=summary_pb2.DATA_CLASS_TENSOR,
        )
        tensor = tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING,
            tensor_shape=tensor_shape_pb2.TensorShapeProto(),
            string_val=[content],
        )
        value = summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
        summary = summary_pb2.Summary(value=[value])
        self._write(event_pb2.Event(wall_time=time_s, step=step, summary=summary))

    def _write(self, event: event_pb2.Event) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        self._file.append(record.getvalue())


def _scalar_metadata(description: str) -> summary_pb2.SummaryMetadata:
    return summary_pb2.SummaryMetadata(
        summary_description=description,
        plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="scalars"),
        data_class=summary_pb2.DATA_CLASS_SCALAR,
    )
