"""Hydra configuration of the recipe."""
