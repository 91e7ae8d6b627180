"""What a representation learns from the embedded model's pictures, against other pictures."""
