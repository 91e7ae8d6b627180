"""Online SynCLR: learn visual representations from captions and images generated while training."""

__version__ = "0.1.0"
