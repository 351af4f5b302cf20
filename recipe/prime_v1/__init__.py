"""PRIME (arXiv 2502.01456) on verl's V1 trainers."""
