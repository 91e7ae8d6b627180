"""The generator's own errors."""


class GeneratorError(RuntimeError):
    """An engine cannot do its work; the message is one sentence that says what to change."""


class ServerAbsentError(GeneratorError):
    """The LLM server did not answer an engine that starts."""


class SetupError(GeneratorError):
    """As `GeneratorError`, where trying again cannot help: the engine is not restarted."""
