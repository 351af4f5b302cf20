"""A reward that an untrained model gets in varying amounts: the share of digits in the response."""

from typing import Any


def compute_score(data_source: str, solution_str: str, ground_truth: str, **kwargs: Any) -> float:
    """Between 0 and 1, and different for most responses, so that every group has an outcome signal."""
    del data_source, ground_truth, kwargs
    return sum(character in "0123456789+-=;" for character in solution_str) / max(1, len(solution_str))
