"""Generator role: concepts -> captions -> images -> groups."""
