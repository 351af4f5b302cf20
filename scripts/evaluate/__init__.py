"""Evaluation of models and checkpoints with verl's vLLM servers: ``python -m scripts.evaluate``."""
