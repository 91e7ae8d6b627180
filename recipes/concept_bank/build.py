"""Writes the two ImageNet concept lists from timm's class metadata and WordNet 3.0.

    python recipes/concept_bank/build.py --wordnet <folder with data.noun and index.noun> \
        --out configs/concepts

The WordNet files come with Debian's package wordnet-base (/usr/share/wordnet) or from Princeton.
They give each class its hypernyms, which `domain_rules.tsv` maps to a domain of backgrounds, and
tell which names are ambiguous. The output depends on nothing else and is the same each time.

ImageNet-1k keeps all its classes. For the 13 thousand most frequent ImageNet-21k names of the paper
stands timm's imagenet-12k subset (the classes with enough images) without the ImageNet-1k classes,
without people other than trades, and without what a photo cannot show.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from timm.data import ImageNetInfo

HERE = Path(__file__).parent
DROP = "drop"
FALLBACK = "generic"
# Scientific names end most lemma lists; they are poor words for a caption.
_BINOMIAL = re.compile(r"^[A-Z][a-z]+ [a-z]{3,}$")
_MAX_ALIASES = 6


@dataclass(frozen=True)
class Synset:
    """A WordNet noun synset; `parents` are the offsets of its hypernyms."""

    lemmas: tuple[str, ...]
    parents: tuple[str, ...]


@dataclass(frozen=True)
class WordNet:
    """The nouns of WordNet by offset, and the offsets of every lemma's senses, commonest first."""

    synsets: dict[str, Synset]
    senses: dict[str, list[str]]

    @classmethod
    def load(cls, folder: Path) -> "WordNet":
        """Read `data.noun` and `index.noun` of a WordNet 3.0 folder."""
        synsets = {line[:8]: _parse_synset(line) for line in _data_lines(folder / "data.noun")}
        senses = {}
        for line in _data_lines(folder / "index.noun"):
            fields = line.split()
            senses[fields[0]] = fields[-int(fields[2]) :]
        return cls(synsets=synsets, senses=senses)

    def ancestors(self, offset: str) -> Iterable[str]:
        """Yield the synset itself, then its hypernyms, nearest first."""
        seen, queue = {offset}, [offset]
        for current in queue:
            yield current
            new = [p for p in self.synsets[current].parents if p not in seen]
            seen.update(new)
            queue.extend(new)

    def is_common_sense(self, lemma: str, offset: str) -> bool:
        """Whether a reader of the bare lemma thinks of this synset first."""
        return self.senses.get(lemma.lower().replace(" ", "_"), [offset])[0] == offset


@dataclass(frozen=True)
class Row:
    """One line of a concept list."""

    name: str
    domain: str
    aliases: tuple[str, ...]

    def __str__(self) -> str:
        return "\t".join([self.name, self.domain, "|".join(self.aliases)]).rstrip("\t")


def main() -> None:
    """Write imagenet1k.tsv and imagenet12k.tsv and print how many concepts each domain has."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    wordnet = WordNet.load(args.wordnet)
    rules = load_rules(wordnet)
    rows_1k = imagenet1k_rows(wordnet, rules)
    rows_12k = imagenet12k_rows(wordnet, rules, taken={row.name.casefold() for row in rows_1k})
    origin = "written by recipes/concept_bank/build.py; names: ImageNet and WordNet 3.0"
    write(args.out / "imagenet1k.tsv", f"ImageNet-1k; {origin}", rows_1k)
    write(args.out / "imagenet12k.tsv", f"timm's imagenet-12k less ImageNet-1k; {origin}", rows_12k)


def load_rules(wordnet: WordNet) -> dict[str, str]:
    """Return {synset offset: domain} from `domain_rules.tsv`."""
    rules = {}
    for sense, domain in _tsv(HERE / "domain_rules.tsv"):
        lemma, _, number = sense.partition("#")
        senses = wordnet.senses.get(lemma, []) if number else [lemma]
        if int(number or 1) > len(senses):
            raise ValueError(f"domain_rules.tsv: WordNet has no sense {sense}; correct the number")
        rules[senses[int(number or 1) - 1]] = domain
    return rules


def imagenet1k_rows(wordnet: WordNet, rules: dict[str, str]) -> list[Row]:
    """All 1000 classes in class order; names that would be misread come from a table."""
    info = ImageNetInfo("imagenet-1k")
    table = {int(row[0]): row[1:] for row in _tsv(HERE / "imagenet1k_names.tsv")}
    rows = []
    for index in range(1000):
        offset = info.index_to_label_name(index)[1:]
        lemmas = _lemmas(info, index)
        name, aliases = lemmas[0], clear_aliases(lemmas, offset, wordnet)
        if index in table:
            name, *others = table[index]
            aliases = [alias for text in others for alias in text.split("|")] + aliases
        domain = domain_of(offset, wordnet, rules)
        rows.append(make_row(name, FALLBACK if domain == DROP else domain, aliases))
    return rows


def imagenet12k_rows(wordnet: WordNet, rules: dict[str, str], taken: set[str]) -> list[Row]:
    """The classes beyond ImageNet-1k that a photo can show, without names already `taken`."""
    info, known = ImageNetInfo("imagenet-12k"), set(ImageNetInfo("imagenet-1k").label_names())
    rows: dict[str, Row] = {}
    for index in range(info.num_classes()):
        label = info.index_to_label_name(index)
        domain = domain_of(label[1:], wordnet, rules)
        if label in known or domain == DROP:
            continue
        lemmas = _lemmas(info, index)
        name = readable_name(label[1:], lemmas, wordnet)
        if name.casefold() not in taken:
            aliases = clear_aliases(lemmas, label[1:], wordnet)
            rows.setdefault(name.casefold(), make_row(name, domain, aliases))
    return [rows[key] for key in sorted(rows)]


def domain_of(offset: str, wordnet: WordNet, rules: dict[str, str]) -> str:
    """The domain of the most specific rule among a synset and its hypernyms; then the nearest."""
    ruled = [ancestor for ancestor in wordnet.ancestors(offset) if ancestor in rules]
    # A grouse is both game, thus an animal, and a bird: "animal" says nothing beside "bird".
    implied = {above for rule in ruled for above in wordnet.ancestors(rule) if above != rule}
    return next((rules[rule] for rule in ruled if rule not in implied), FALLBACK)


def readable_name(offset: str, lemmas: list[str], wordnet: WordNet) -> str:
    """Return a name that a reader takes for this synset.

    The first lemma if this is its commonest sense, else another lemma of which that holds, else the
    first lemma with its hypernym as a hint: 'mole (bulwark)'.
    """
    clear = clear_aliases(lemmas, offset, wordnet)
    if clear:
        return lemmas[0] if lemmas[0] in clear else clear[0]
    parents = wordnet.synsets[offset].parents
    hint = wordnet.synsets[parents[0]].lemmas[0] if parents else ""
    if not hint or hint.casefold() in lemmas[0].casefold():
        return lemmas[0]
    return f"{lemmas[0]} ({hint})"


def clear_aliases(lemmas: list[str], offset: str, wordnet: WordNet) -> list[str]:
    """The lemmas that mean this synset first: not 'gas' or 'gun' for an accelerator pedal."""
    common = [lemma for lemma in lemmas if wordnet.is_common_sense(lemma, offset)]
    return [lemma for lemma in common if not _BINOMIAL.match(lemma) or lemma == lemmas[0]]


def make_row(name: str, domain: str, aliases: Iterable[str]) -> Row:
    """A row whose aliases are distinct, few, and no scientific names."""
    unique = {alias.casefold(): alias for alias in aliases if not _BINOMIAL.match(alias)}
    unique.pop(name.casefold(), None)
    return Row(name, domain, tuple(unique.values())[:_MAX_ALIASES])


def write(path: Path, title: str, rows: list[Row]) -> None:
    """Write a concept list and print its size by domain."""
    path.write_text("\n".join([f"# {title}", *map(str, rows)]) + "\n", encoding="utf-8")
    sizes = ", ".join(f"{d} {n}" for d, n in Counter(row.domain for row in rows).most_common())
    print(f"{path.name}: {len(rows)} concepts ({sizes})")


def _lemmas(info: ImageNetInfo, index: int) -> list[str]:
    text = info.index_to_description(index).replace("_", " ")
    return list(dict.fromkeys(lemma.strip() for lemma in text.split(",") if lemma.strip()))


def _data_lines(path: Path) -> list[str]:
    # The licence at the head of WordNet's files is indented by two spaces.
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("  ")]


def _parse_synset(line: str) -> Synset:
    fields = line.split("|")[0].split()
    num_lemmas = int(fields[3], 16)
    lemmas = tuple(f.replace("_", " ") for f in fields[4 : 4 + 2 * num_lemmas : 2])
    pointers = fields[5 + 2 * num_lemmas :]
    num_pointers = int(fields[4 + 2 * num_lemmas])
    quads = [pointers[4 * i : 4 * i + 4] for i in range(num_pointers)]
    return Synset(lemmas, tuple(q[1] for q in quads if q[0] in ("@", "@i")))


def _tsv(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


if __name__ == "__main__":
    main()
