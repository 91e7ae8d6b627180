"""Small concept banks written to a folder, for tests."""

from pathlib import Path
from typing import Any

import yaml

SOURCES = {
    "animals": {"file": "animals.tsv", "share": 0.6, "kind": "object"},
    "cars": {"file": "cars.tsv", "share": 0.1, "kind": "object", "append": "car"},
    "scenes": {"file": "scenes.tsv", "share": 0.3, "kind": "scene"},
}
BANK: dict[str, Any] = {
    "sources": SOURCES,
    "backgrounds": {"animal": "animal.txt", "road": "road.txt"},
    "relations": ["on", "under", "next to"],
    "prompts": "prompts",
    "templates": {
        "object": {"concept": 0.44, "concept_background": 0.45, "concept_relation": 0.11},
        "scene": {"concept": 1.0},
    },
}
FILES = {
    "animals.tsv": "# animals\nred fox\tanimal\tfox|Vulpes\ncrane (bird)\tanimal\nowl\tanimal\n",
    "cars.tsv": "Audi S4 Sedan 2012\troad\tAudi\n",
    "scenes.tsv": "beach\nlibrary\n",
    "animal.txt": "snowy field\nforest path\n# no phrase\n\nriver bank\n",
    "road.txt": "mountain pass\n",
}


def write_bank(folder: Path, **changes: Any) -> Path:
    """Write a usable bank, its top-level keys replaced by `changes`; return its YAML."""
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "prompts").mkdir(exist_ok=True)
    for template in ("concept", "concept_background", "concept_relation"):
        write_prompts(folder / "prompts", template, num_examples=5)
    path = folder / "bank.yaml"
    path.write_text(yaml.safe_dump(BANK | changes), encoding="utf-8")
    return path


def write_prompts(folder: Path, template: str, num_examples: int) -> None:
    """Write one prompt file with numbered examples."""
    lines = [f"# instruction: Write one sentence ({template})."]
    lines += [f"thing {i} => A photo of thing {i}." for i in range(num_examples)]
    (folder / f"{template}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
