"""Reading the plain files of a concept bank, and the one error they can raise."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


class ConceptBankError(ValueError):
    """A concept bank, background or prompt file is unusable; says which file and what to do."""


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, stripped, without blanks and '#' comments.

    Raises:
        ConceptBankError: the file is missing, unreadable or not UTF-8.
    """
    lines = (line.strip() for line in read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file.

    Raises:
        ConceptBankError: the file is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConceptBankError(f"{path} does not exist; create it or correct its path") from None
    except UnicodeDecodeError:
        raise ConceptBankError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        reason = error.strerror or error
        raise ConceptBankError(f"{path} cannot be read ({reason}); make it readable") from None


def read_concept_rows(path: Path) -> Iterator[tuple[str, str | None, tuple[str, ...]]]:
    """Yield (name, domain or None, other names) for every line of a concept TSV.

    Raises:
        ConceptBankError: the file is unreadable, a line has more than three columns or no name.
    """
    for line in read_lines(path):
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) > 3:
            raise ConceptBankError(
                f"{path}: '{line}' has {len(columns)} columns; keep name, domain and other names"
            )
        name, domain, others = columns + [""] * (3 - len(columns))
        yield name, domain or None, tuple(o.strip() for o in others.split("|") if o.strip())


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping at the top of a YAML file.

    Raises:
        ConceptBankError: the file is unreadable, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        problem = str(error).replace("\n", " ")
        raise ConceptBankError(f"{path} is not YAML ({problem}); mend its syntax") from None
    if not isinstance(content, dict):
        raise ConceptBankError(f"{path} holds no mapping; it needs the keys sources and templates")
    return content
