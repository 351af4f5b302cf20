"""Hydra configuration group `method`."""
