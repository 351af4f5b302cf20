"""A tool, in the form in which verl loads functions."""

from verl.tools.function_tool import function_tool


@function_tool
def count_vowels(text: str) -> str:
    """Count the vowels of a text.

    Args:
        text: what to count in.
    """
    # With a newline, which ends nobody's line.
    return f"<{sum(character in 'aeiouAEIOU' for character in text)}\n>"
