"""PRIME (arXiv 2502.01456) on verl's current trainer: an implicit process reward model, trained online."""
