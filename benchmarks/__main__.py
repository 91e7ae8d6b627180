"""The set that two CPU cores carry in under ten minutes: `make bench`.

    python -m benchmarks [stream views ...]

Each benchmark runs in a process of its own, one after the other, and prints its table with the
machine it was taken on. The full ones, and those for GPUs and networks, are in docs/performance.md.
Ends with exit code 1 if one of them failed.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

SUITE: Final[Mapping[str, tuple[str, ...]]] = {
    "stream": ("--mib", "384"),
    "rivals": ("--groups", "100"),
    "fan_in": ("--generators", "1", "4", "--window-s", "0.3"),
    "views": ("--threads", "1"),
    "step": ("--models", "demo", "--threads", "1", "--no-memory"),
    "mim_memory": ("--precision", "fp32", "--repeats", "3"),
    "render": ("--clock", "cpu"),
    "efficiency": ("--ranks", "1+1", "--limited-by", "training"),
    "growth": (),
}
"""Benchmark -> its arguments here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named benchmarks, or all; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SUITE))
    names = parser.parse_args(arguments).names or list(SUITE)
    unknown = [name for name in names if name not in SUITE]
    if unknown:
        parser.error(f"{', '.join(unknown)}: not in this set, which is {', '.join(SUITE)}")
    failed = [name for name in names if not _run(name)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str) -> bool:
    command = [sys.executable, "-m", f"benchmarks.{name}", *SUITE[name]]
    print(f"## {' '.join(command[2:])}\n", flush=True)
    began_s = time.monotonic()
    done = subprocess.run(command, check=False)
    print(f"\n{time.monotonic() - began_s:.0f} s\n", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
