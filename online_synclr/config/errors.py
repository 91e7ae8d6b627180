"""The one exception of a wrong configuration."""


class ConfigError(ValueError):
    """A setting is wrong; the message is one sentence that names the key and the mend."""
