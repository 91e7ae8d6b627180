"""What a generator rank is told about its place in the run."""

from dataclasses import dataclass
from pathlib import Path

from online_synclr.stream.keys import GeneratorKey, load_generator_key


@dataclass(frozen=True, kw_only=True)
class GeneratorRole:
    """One generator of a run.

    Attributes:
        run_id: The run's identity, as the trainers know it.
        run_dir: Run folder; logs and the node's server address are written below it.
        incarnation: Of this attempt; raised before any engine starts.
        generator_index: Among all generators of the run, from 0.
        num_generators: Generators that share the run's work by their index; None: this one joined
            on its own.
        node_index: The node this generator is on.
        local_generator_index: Among the generators of this node, from 0; the first one starts the
            node's server.
        trainer_addresses: Where the trainers' receivers listen.
        key_path: The key to connect with; none: the trainers listen on private Unix sockets.
        gpu: Index among the GPUs this process sees; none: CPU.
        cpu_threads: Threads of the engine's libraries.
        position: Spreads generators over trainers (`stream.fan_out`); none: its index.
        name: Of a generator that joined on its own; empty: torchrun started it.
    """

    run_id: str
    run_dir: Path
    incarnation: int
    generator_index: int
    num_generators: int | None = None
    node_index: int
    local_generator_index: int
    trainer_addresses: tuple[str, ...]
    key_path: Path | None = None
    gpu: int | None
    cpu_threads: int
    position: int | None = None
    name: str = ""

    @property
    def serving_position(self) -> int:
        """For `choose_trainers`."""
        return self.generator_index if self.position is None else self.position

    def key(self) -> GeneratorKey | None:
        """The key to connect with.

        Raises:
            KeysError: it cannot be used.
        """
        return None if self.key_path is None else load_generator_key(self.key_path)

    @property
    def generator_id(self) -> str:
        """Name of this generator wherever the run is shown."""
        return self.name or f"g{self.generator_index}"

    def file_name(self, restarts: int) -> str:
        """Of the files of one start of its engine: no other start's, of any attempt."""
        place = f"-{self.generator_index}" if self.name else ""
        return f"{self.generator_id}-{self.incarnation}{place}-{restarts}"
