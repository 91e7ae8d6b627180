"""A linear head on frozen patch tokens for semantic segmentation (docs/segmentation.md)."""
