"""Judging frozen backbones after training, and handing them on.

It imports `online_synclr` and `trainer`; neither a trainer nor a generator imports it.
"""
