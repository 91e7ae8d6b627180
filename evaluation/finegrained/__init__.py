"""Logistic regression on frozen features: the paper's fine-grained protocol."""
