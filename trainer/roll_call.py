"""Who came and who went, in sentences for people: a pure comparison of reports."""

from collections.abc import Sequence

from online_synclr.names_kept import forget_gone
from online_synclr.stream.keys import RANKS, admits
from trainer.report import GeneratorReport


class RollCall:
    """Remembers how each generator stood; `changes` tells what is new.

    The generators that torchrun starts are expected, and failures are told by
    `trainer.failures.FailureTeller`, so neither is news here.
    """

    def __init__(self) -> None:
        self._seen: dict[str, bool] = {}

    def changes(self, generators: Sequence[GeneratorReport]) -> list[str]:
        """One sentence for each generator that came, left or came back since the last call."""
        forget_gone(self._seen, here={generator.generator_id for generator in generators})
        sentences = []
        for generator in generators:
            name, before = generator.generator_id, self._seen.get(generator.generator_id)
            if generator.alive and before is None and not generator.fingerprint:
                # Its models are loading: it is told of once it is known what they are.
                continue
            self._seen[name] = generator.alive
            if generator.alive and before is None and not admits(RANKS, name):
                sentences.append(f"generator {name} joined (models {generator.fingerprint})")
            elif generator.alive and before is False:
                sentences.append(f"generator {name} is back")
            elif not generator.alive and before is not False and generator.state != "failed":
                gone = "left" if generator.state == "ended" else "is not heard any more"
                sentences.append(f"generator {name} {gone}")
        return sentences
