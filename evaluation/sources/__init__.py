"""Where frozen backbones come from: a module for each kind of name that `evaluation.load` knows."""
