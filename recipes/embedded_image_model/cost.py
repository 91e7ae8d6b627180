"""What the shipped folder costs: images a second and memory, each measured in a process of its own.

python -m recipes.embedded_image_model.cost generators/embedded_image_model
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from recipes.embedded_image_model import config as settings
from recipes.embedded_image_model import export
from recipes.embedded_image_model.concepts import NAMES
from recipes.embedded_image_model.config import DemoConfig

GROUPS_AT_ONCE = 8
REPEATS = 9
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def images_per_s(folder: Path, demo: DemoConfig, *, dtype: str, threads: int) -> dict[str, float]:
    """Median, least and most images a second over `REPEATS` calls of eight groups; peak memory.

    Memory is the process's largest resident size, torch and diffusers included.
    """
    torch.set_num_threads(threads)
    pipeline = export.load(folder, dtype=DTYPES[dtype])
    texts = [f"a {name}" for name in NAMES[:GROUPS_AT_ONCE] for _ in range(demo.group)]
    rates = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        pipeline(
            texts, num_inference_steps=demo.steps, guidance_scale=demo.guidance,
            height=64, width=64, output_type="pt",
        )  # fmt: skip
        rates.append(len(texts) / (time.perf_counter() - begin))
    rates = sorted(rates[1:])  # the first call warms up
    return {
        "images_per_s": round(rates[REPEATS // 2], 1),
        "least": round(rates[0], 1),
        "most": round(rates[-1], 1),
        "peak_memory_mb": round(_peak_memory_mb()),
    }


def _peak_memory_mb() -> float:
    """This process's largest resident size; Linux's own rusage figure starts at the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(folder: Path, demo: DemoConfig) -> dict[str, object]:
    """Cost by precision and number of threads, with the machine it was measured on."""
    rows, load = {}, os.getloadavg()[0]
    for dtype in DTYPES:
        for threads in (1, 2):
            command = [sys.executable, "-m", __spec__.name, str(folder), "--dtype", dtype]
            command += ["--threads", str(threads), "--steps", str(demo.steps)]
            command += ["--guidance", str(demo.guidance), "--group", str(demo.group)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows[f"{dtype}, {threads} threads"] = json.loads(done.stdout.splitlines()[-1])
    return {
        "machine": _processor(),
        "cores": os.cpu_count(),
        "load_average": round(load, 1),
        "batch": GROUPS_AT_ONCE * demo.group,
        "rows": rows,
    }


def _processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    """Measure one setting and print it as one JSON line."""
    default = DemoConfig()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=list(DTYPES), default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--guidance", type=float, default=default.guidance)
    parser.add_argument("--group", type=int, default=default.group)
    args = parser.parse_args()
    demo = settings.DemoConfig(steps=args.steps, guidance=args.guidance, group=args.group)
    row = images_per_s(args.folder, demo, dtype=args.dtype, threads=args.threads)
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
