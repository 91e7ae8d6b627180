"""Writes background phrases for your own concepts with a language model.

    python recipes/concept_bank/write_backgrounds.py --concepts my_things.tsv \
        --out configs/backgrounds/my_domain.txt --count 60 --model <folder, .gguf file or hub id>
    ... --url http://127.0.0.1:8000/v1 --model <its name>      any OpenAI-compatible server

`--concepts` is a concept list as a bank uses it (only its first column is read). The model is asked
for places in which each concept is photographed, by completion after a few of the shipped lists;
answers are cleaned, and only phrases that came at least `--min-votes` times are kept, the most
frequent first. Read the result before using it: implausible backgrounds cost accuracy.
"""

import argparse
import json
import os
import re
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

EXAMPLES = Path(__file__).parents[2] / "configs" / "backgrounds"
# Shipped lists shown to the model, and the thing each of them is shown for.
SHOWN = {"dog": "beagle", "food": "apple pie", "vehicle_road": "pickup truck", "tool": "hammer"}
PHRASES_SHOWN = 8
MAX_TOKENS = 80
_PHRASE = re.compile(r"[a-z][a-z' -]{2,}")

Complete = Callable[[str, int], str]


def main() -> None:
    """Ask until `--count` phrases are found or every round is spent; write them."""
    args = parse_arguments()
    names = read_names(args.concepts)
    complete = server(args) if args.url else local_model(args.model)
    votes = collect(names, complete, rounds=args.rounds, seed=args.seed)
    phrases = [phrase for phrase, n in votes.most_common() if n >= args.min_votes][: args.count]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join(f"{phrase}\n" for phrase in phrases), encoding="utf-8")
    print(f"{args.out}: {len(phrases)} backgrounds for {len(names)} concepts")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--concepts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--url", default="", help="an OpenAI-compatible server; none: load --model")
    parser.add_argument("--api-key-env", default="OPENAI_API_KEY")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=8, help="questions asked per concept")
    parser.add_argument("--min-votes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def read_names(path: Path) -> list[str]:
    """Return the first column of a concept list."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line.split("\t")[0] for line in lines if line and not line.startswith("#")]


def collect(names: list[str], complete: Complete, *, rounds: int, seed: int) -> Counter[str]:
    """Return how often each phrase was answered, over `rounds` questions per concept."""
    votes: Counter[str] = Counter()
    for round_index in range(rounds):
        for name in names:
            key = f"{seed}:{round_index}:{name}"
            prompt = question(name, Random(key))
            votes.update(set(phrases_of(complete(prompt, Random(key).getrandbits(31)), name)))
    return votes


def question(name: str, rng: Random) -> str:
    """A completion prompt: three shipped examples, then the concept."""
    lines = ["Places where a thing is often photographed, separated by semicolons."]
    for domain in rng.sample(sorted(SHOWN), 3):
        places = (EXAMPLES / f"{domain}.txt").read_text(encoding="utf-8").splitlines()
        lines.append(f"{SHOWN[domain]}: {'; '.join(rng.sample(places, PHRASES_SHOWN))}")
    return "\n".join([*lines, f"{name}:"])


def phrases_of(answer: str, name: str) -> Iterator[str]:
    """Yield the usable phrases of an answer: short, plain, not about the concept itself."""
    first_line = answer.strip().split("\n", 1)[0].lower()
    # The last phrase may have been cut off by the token limit.
    parts = first_line.split(";")
    for part in parts[:-1] if len(parts) > 1 else []:
        phrase = re.sub(r"^(?:an?|the|in|on|at)\s+", "", part.strip(" .,"))
        words = phrase.split()
        if not _PHRASE.fullmatch(phrase) or len(words) > 5 or len(set(words)) < len(words):
            continue
        if name.lower() not in phrase:
            yield phrase


def server(args: argparse.Namespace) -> Complete:
    """Complete through an OpenAI-compatible server."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(args.api_key_env):
        headers["Authorization"] = f"Bearer {key}"

    def complete(prompt: str, seed: int) -> str:
        body = {"model": args.model, "prompt": prompt, "max_tokens": MAX_TOKENS, "seed": seed}
        body |= {"temperature": 0.8, "top_p": 0.9, "stop": ["\n"]}
        request = urllib.request.Request(
            f"{args.url.rstrip('/')}/completions", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            return str(json.load(reply)["choices"][0]["text"])

    return complete


def local_model(name: str) -> Complete:
    """Complete with a transformers model: a folder, a hub id, or a GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(name)
    is_gguf = path.suffix == ".gguf"
    source, extra = (path.parent, {"gguf_file": path.name}) if is_gguf else (name, {})
    tokenizer = AutoTokenizer.from_pretrained(source, **extra)
    model = AutoModelForCausalLM.from_pretrained(source, **extra).eval()

    @torch.inference_mode()
    def complete(prompt: str, seed: int) -> str:
        torch.manual_seed(seed)
        inputs = tokenizer(prompt, return_tensors="pt")
        tokens = model.generate(
            **inputs, do_sample=True, temperature=0.8, top_p=0.9, max_new_tokens=MAX_TOKENS
        )
        new_tokens = tokens[0, inputs["input_ids"].shape[1] :]
        return str(tokenizer.decode(new_tokens, skip_special_tokens=True))

    return complete


if __name__ == "__main__":
    main()
