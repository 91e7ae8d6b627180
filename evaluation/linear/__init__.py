"""The linear probe: a classifier for each learning rate, trained by one pass over the data."""
