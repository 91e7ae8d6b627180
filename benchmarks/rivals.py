"""The stream against what people use today to hand groups from one process to another.

    python -m benchmarks.rivals [--groups 200] [--side 256] [--cases ...]

| case | what moves the groups |
| --- | --- |
| shm, ipc, tcp, curve | the stream into a trainer's pool, as `benchmarks.stream` has it |
| mp_queue | `torch.multiprocessing.Queue`: tensors, which travel in shared memory |
| push_pickle | ZeroMQ PUSH/PULL over a Unix socket, `send_pyobj` and `recv_pyobj` |
| loader_raw | a `DataLoader` whose one worker reads groups from a tar on local disk, as .npy |
| loader_jpeg | the same with a JPEG a picture, as such tars mostly have |

The same groups, two processes each, at most 16 groups in between, and the receiver compares a
checksum (xxh3) of every group's pixels with the sender's. The tar has the layout of webdataset's
(files of one sample share their name up to the first dot) and is read by the standard library's
`tarfile`: the webdataset package is none of this project's. It lies in the page cache: a disk is
slower. Processes of the rivals stay between repeats, so none of their starts is counted; the
stream's are new each time, with a warm-up that is not counted.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import stream
from benchmarks.measuring import REPEATS, describe, interleave, ratio, spread, table
from benchmarks.stream import Shape

IN_BETWEEN = 16
POOL_BYTES = 2**28
RIVALS = ("mp_queue", "push_pickle", "loader_raw", "loader_jpeg")


def make_cases(
    names: Sequence[str], shape: Shape, num_groups: int, folder: Path, stack: ExitStack
) -> dict[str, Callable[[], float]]:
    """The measurements by name; groups a second each."""
    # Here: a process that the stream's cases spawn imports this module again, without torch.
    from benchmarks.rival_transports import make_rivals

    rivals = make_rivals(names, shape, folder, stack)
    return {
        name: partial(rivals[name], num_groups)
        if name in rivals
        else partial(_stream_rate, name, shape, num_groups)
        for name in names
    }


def _stream_rate(transport: str, shape: Shape, num_groups: int) -> float:
    rate, _ = stream.stream_rate(
        transport, shape, num_groups, IN_BETWEEN, POOL_BYTES, check_every=1
    )
    return rate


def report(rates: dict[str, list[float]]) -> str:
    """The table: each transport of the stream against each rival, repeat by repeat."""
    ours = [name for name in rates if name not in RIVALS]
    rows = []
    for name, values in rates.items():
        against = [f"{ratio(rates[our], values):.2f}" if name in RIVALS else "" for our in ours]
        rows.append([name, f"{spread(values):.0f}", *against])
    return table(["case", "groups/s", *(f"{our} to it" for our in ours)], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table."""
    known = (*stream.CASES, *RIVALS)
    parser = argparse.ArgumentParser(description="The stream against what people use today.")
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--cases", nargs="+", choices=known, default=list(known))
    options = parser.parse_args(arguments)
    shape = (options.images, 3, options.side, options.side)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cases = make_cases(options.cases, shape, options.groups, folder, stack)
        rates = interleave(cases, options.repeats)
    print(f"group {shape} uint8, {np.prod(shape) / 1e3:.0f} kB, {IN_BETWEEN} in between\n")
    print(report(rates))
    print(f"\n{describe('torch', 'pyzmq', 'numpy')}")


if __name__ == "__main__":
    main()
