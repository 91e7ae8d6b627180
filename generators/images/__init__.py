"""Renderers that turn recipes into groups of images; nothing heavy is imported here."""
