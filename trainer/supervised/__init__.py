"""The supervised phase after a run: `python -m online_synclr finetune`."""
