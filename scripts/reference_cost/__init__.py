"""What SPRO's step costs beyond GRPO's."""
