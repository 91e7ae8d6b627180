"""Recipes: how the shipped artefacts of the project were made."""
