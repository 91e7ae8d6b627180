"""Distillation from a frozen teacher, usually a larger one: `trainer.distillation`."""
