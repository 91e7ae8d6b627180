"""What `python -m online_synclr` does beside being a rank of a run: one file a subcommand."""
