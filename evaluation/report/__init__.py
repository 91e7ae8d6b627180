"""What `--out` holds: results as JSON, tables and a plot."""
