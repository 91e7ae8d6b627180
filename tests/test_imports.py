"""What may import what, and how quickly the command line answers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from online_synclr.paths import PROJECT_DIR

HEAVY = {"torch", "diffusers", "transformers", "vllm", "timm", "torchvision", "tensorboard", "zmq"}
PACKAGES = [
    "online_synclr",
    "online_synclr.config",
    "online_synclr.topology",
    "online_synclr.launch",
    "online_synclr.rendezvous",
    "online_synclr.stream",
    "online_synclr.monitor",
    "online_synclr.ledger.reading",
    "online_synclr.ledger.writer",
    "online_synclr.commands.evaluate",
    "generators",
    "trainer",
    "evaluation",
    "evaluation.tasks",
    "evaluation.report",
]


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=PROJECT_DIR
    )
    return {name.partition(".")[0] for name in output.stdout.split()}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_nothing_heavy(package: str) -> None:
    assert not loaded_by(f"import {package}") & HEAVY


def test_the_command_line_loads_no_torch() -> None:
    assert not loaded_by("import online_synclr.__main__") & HEAVY


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("generators", "trainer"),
        ("trainer", "generators"),
        ("generators", "evaluation"),
        ("trainer", "evaluation"),
        ("evaluation", "generators"),
        ("online_synclr/stream", "trainer"),
        ("online_synclr/stream", "generators"),
        ("online_synclr/ledger", "trainer"),
        ("online_synclr/ledger", "generators"),
        ("online_synclr/monitor", "trainer"),
        ("online_synclr/monitor", "generators"),
    ],
)
def test_roles_know_only_the_stream_between_them(package: str, forbidden: str) -> None:
    for path in (PROJECT_DIR / package).rglob("*.py"):
        roots = {name.partition(".")[0] for name in imports_of(path)}
        assert forbidden not in roots, f"{path} imports {forbidden}"
