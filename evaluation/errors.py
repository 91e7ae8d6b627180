"""What evaluation and export refuse."""

from online_synclr.config import ConfigError


class EvaluationError(ConfigError):
    """A backbone, a data set or an option cannot be used; one sentence with cause and mend."""
