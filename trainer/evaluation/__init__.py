"""Measures of the learned representation while training: weighted nearest neighbours."""
