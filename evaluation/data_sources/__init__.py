"""Where labelled images come from, one module a source; `evaluation.data` chooses."""
