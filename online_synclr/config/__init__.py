"""Every setting of a run: typed, documented, checked, importable without torch."""

from online_synclr.config.checks import check, check_shares
from online_synclr.config.errors import ConfigError
from online_synclr.config.load import load_config, resolved_yaml
from online_synclr.config.schema import Config

__all__ = ["Config", "ConfigError", "check", "check_shares", "load_config", "resolved_yaml"]
