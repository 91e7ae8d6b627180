"""Trainer role: pool -> views -> student and teacher -> losses -> checkpoints."""
