"""Train the embedded image model from nothing; start with `__main__.py`."""
