"""A run whose generators are killed and stopped, over a network that breaks: nothing else is lost.

    python -m benchmarks.chaos [--minutes 10] [--seed 0]

Two trainers and three generators under torchrun, two generators that joined by themselves;
synthetic engines, TCP under keys, a relay in between that delays, stalls, cuts and corrupts. Every
few seconds an engine child or a generator of the latter kind gets SIGKILL or SIGSTOP; one of the
latter that is dead is started again, as a machine's service manager would. First a rehearsal of a
minute tells how many steps such a run does in the time asked for. Exits with 1 and says what does
not hold:

  - the trainers complete every step, and nothing is trained more often than allowed;
  - the run's counts add up; groups are lost only where something was on its way;
  - an engine that lives delivers within ten seconds of being ready;
  - trainers and supervisors need no more memory at the end than after the first minute;
  - no process, socket or shared memory is left.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.chaos.findings import MemoryWatch, Starts
from benchmarks.chaos.job import (
    BIND_HOST,
    CREDITS,
    JOINER_WAIT_S,
    MAX_REUSE,
    RELAY_HOST,
    TRAINERS,
    Job,
    free_ports,
    ranks_of,
)
from benchmarks.chaos.killer import Killer
from benchmarks.killed_checks import recorded_wrongly
from benchmarks.marked import Litter
from benchmarks.rough_network import RoughNetwork
from online_synclr.ledger.reading import read_ledger
from online_synclr.ledger.totals import count_ledger
from online_synclr.monitor.summary import Summary

REHEARSAL_S: Final = 60.0
SETTLED_S: Final = 30.0
"""Of the rehearsal, until steps are counted."""

READY_TO_SEND_S: Final = 10.0
MEMORY_GROWTH: Final = 0.05
LEAVE_S: Final = 90.0
ENDS_WELL: Final = ("the run is finished", f"found no job within {JOINER_WAIT_S:.0f} s (--wait-s)")
"""The second: of one that was dead or stopped when the run ended."""


def rehearse(folder: Path, port: int, seed: int) -> float:
    """Steps a second of a run with all its troubles."""
    with _network(port, seed), Job(folder, port, steps=10**6) as job:
        killer, until_s = Killer(job, seed), time.monotonic() + REHEARSAL_S
        while time.monotonic() < until_s and job.torchrun.poll() is None:
            job.tend()
            killer.step()
            time.sleep(0.2)
        killer.release()
        steps = job.steps_logged()
    if len(steps) < 3:
        raise RuntimeError(f"the rehearsal did no steps; see {folder}")
    settled = [item for item in steps if item[1] >= steps[-1][1] - (REHEARSAL_S - SETTLED_S)]
    (first, began_s), (last, ended_s) = settled[0], settled[-1]
    return (last - first) / (ended_s - began_s)


def _network(port: int, seed: int) -> RoughNetwork:
    return RoughNetwork(
        listen_host=RELAY_HOST,
        target_host=BIND_HOST,
        ports=range(port, port + TRAINERS),
        pause_s=3.0,
        seed=seed,
    )


def run(folder: Path, minutes: float, seed: int) -> list[str]:
    """The whole benchmark; what does not hold."""
    port = free_ports(TRAINERS)
    for name in ("rehearsal", "chaos"):
        (folder / name).mkdir()
    per_s = rehearse(folder / "rehearsal", port, seed + 1)
    steps = max(20, round(per_s * 60 * minutes))
    print(f"rehearsal: {per_s:.1f} steps/s; {steps} steps for {minutes:g} minutes", flush=True)
    before = Litter.now()
    began_s = time.monotonic()
    with _network(port, seed) as network, Job(folder / "chaos", port, steps) as job:
        killer, memory = Killer(job, seed), MemoryWatch(lambda: ranks_of(job))
        while job.torchrun.poll() is None:
            job.tend()
            killer.step()
            memory.step(time.monotonic())
            time.sleep(0.2)
        killer.release()
        took_s = time.monotonic() - began_s
        joiners = job.wait_for_joiners(LEAVE_S)
        left = [" ".join(process.cmdline()[:6]) for process in job.mark.processes()]
        left += Litter.now().new_since(before)
        return _report(job, folder / "chaos", steps, took_s, killer, network, memory, joiners, left)


def _report(
    job: Job, folder: Path, steps: int, took_s: float, killer: Killer, network: RoughNetwork,
    memory: MemoryWatch, joiners: list[str], left: list[str],
) -> list[str]:  # fmt: skip
    summary, starts = job.summary(), Starts.read(folder)
    strikes, faults = sum(killer.struck.values()), sum(network.struck.values())
    sent, lost = summary.get("groups_sent", 0), summary.get("groups_lost", 0)
    discarded = summary.get("groups_discarded", 0)
    most = (strikes + faults) * CREDITS * TRAINERS
    grown = memory.growth(settled_s=60.0, window_s=30.0)
    worst = max((late / early - 1 for early, late in grown.values()), default=float("nan"))
    slowest = max(starts.sent_s, default=float("nan"))
    median_s = median(starts.sent_s) if starts.sent_s else float("nan")
    print(f"steps {summary.get('steps')} of {steps} in {took_s / 60:.1f} min")
    print(f"struck {strikes}: {dict(killer.struck)}")
    print(f"network faults {faults}: {dict(network.struck)}")
    print(f"groups sent {sent}, lost {lost}, discarded {discarded}; bound {most}")
    print(f"dropped: {summary.get('dropped')}")
    print(
        f"engine starts {starts.ready}, of which {len(starts.sent_s)} sent; {median_s:.2f} s "
        f"after being ready, slowest {slowest:.2f} s"
    )
    print(f"generators that joined: {job.joined} starts; at the end {joiners}")
    for early, late in grown.values():
        print(f"memory {early / 2**20:.1f} MiB after a minute, {late / 2**20:.1f} at the end")
    print(f"left over: {left or 'nothing'}")
    checks = {
        f"torchrun ended with {job.torchrun.returncode}": job.torchrun.returncode == 0,
        f"{summary.get('steps')} of {steps} steps were done": summary.get("steps") == steps,
        f"counts do not add up: {summary.get('violations')}": summary.get("violations") == [],
        f"{lost + discarded} groups did not arrive, more than {most}": lost + discarded <= most,
        f"generators beside the run: {joiners}": all(end.startswith(ENDS_WELL) for end in joiners),
        f"an engine sent {slowest:.1f} s after being ready": slowest <= READY_TO_SEND_S,
        f"memory grew by {100 * worst:.1f} %": worst <= MEMORY_GROWTH,
        f"left over: {left}": not left,
    }
    broken = [sentence for sentence, holds in checks.items() if not holds]
    if job.has_summary:
        written = Summary.read(job.run_dir / "summary.json")
        broken += recorded_wrongly(job.run_dir, written, max_reuse=MAX_REUSE)
        totals = count_ledger(read_ledger(job.run_dir))
        print(
            f"ledger: {totals.groups} groups, at most {totals.most_uses} uses of one, "
            f"{totals.duplicates} seeds twice, {totals.bytes_per_group:.1f} bytes a group"
        )
    return broken


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description="A run whose generators and network fail.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for run and logs; none: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        broken = run(folder, arguments.minutes, arguments.seed)
    for sentence in broken:
        print(f"DOES NOT HOLD: {sentence}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
