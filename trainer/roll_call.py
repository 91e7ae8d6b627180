"""Who came and who went, in sentences for people: a pure comparison of reports."""

import re
from collections.abc import Sequence

from trainer.report import GeneratorReport

_RANK = re.compile(r"g[0-9]+")
_GONE = {
    "ended": "left",
    "silent": "is not heard any more",
    "failed": "has failed",
}


class RollCall:
    """Remembers how each generator stood; `changes` tells what is new.

    The generators that torchrun starts are expected: only the loss of one is news.
    """

    def __init__(self) -> None:
        self._seen: dict[str, bool] = {}

    def changes(self, generators: Sequence[GeneratorReport]) -> list[str]:
        """One sentence for each generator that came, went or came back since the last call."""
        sentences = []
        for generator in generators:
            name, before = generator.generator_id, self._seen.get(generator.generator_id)
            self._seen[name] = generator.alive
            if generator.alive and before is None and not _RANK.fullmatch(name):
                sentences.append(f"generator {name} joined{_models(generator)}")
            elif generator.alive and before is False:
                sentences.append(f"generator {name} is back{_models(generator)}")
            elif not generator.alive and before is not False:
                gone = _GONE.get(generator.state, "is gone")
                error = f": {generator.first_error}" if generator.first_error else ""
                sentences.append(f"generator {name} {gone}{error}")
        return sentences


def _models(generator: GeneratorReport) -> str:
    return f" (models {generator.fingerprint})" if generator.fingerprint else ""
