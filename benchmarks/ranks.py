"""Runs under torchrun for benchmarks, which end with the benchmark whatever ends it."""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.torchrun import environment

GRACE_S = 30.0


def run_ranks(
    module: str,
    run_dir: Path,
    overrides: Sequence[str],
    *,
    num_ranks: int,
    timeout_s: float,
    variables: Mapping[str, str],
) -> None:
    """Run `module`, which takes the arguments of `online_synclr`, to its end on configs/demo.yaml.

    Raises:
        RuntimeError: it failed, or took longer than `timeout_s`; with its last words.
    """
    # SIGTERM becomes an exception, so that the ranks are stopped before this process ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc_per_node={num_ranks}", "-m", module),
        *("--config", "configs/demo.yaml", f"run.dir={run_dir}", *overrides),
    ]
    ranks = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment(), **variables},
    )
    try:
        output, _ = ranks.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{module} took longer than {timeout_s:.0f} s") from None
    finally:
        _stop(ranks)
    if ranks.returncode:
        raise RuntimeError(f"{module} failed: {output[-3000:]}")


def _stop(ranks: subprocess.Popen[str]) -> None:
    """As torchrun is stopped by a person; without effect on one that has ended."""
    if ranks.poll() is None:
        ranks.terminate()
        try:
            ranks.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            ranks.kill()
