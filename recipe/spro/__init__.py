"""SPRO (arXiv 2507.01551) for verl: process-level credit assignment without a process reward model."""
