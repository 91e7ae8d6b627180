"""Every setting of a run: typed, documented, checked, importable without torch."""

from online_synclr.config.checks import check
from online_synclr.config.errors import ConfigError
from online_synclr.config.load import load_config, resolved_yaml
from online_synclr.config.schema import Config

__all__ = ["Config", "ConfigError", "check", "load_config", "resolved_yaml"]
