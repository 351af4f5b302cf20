"""Hydra group `stack`: what the machine needs, such as `+stack=cpu`."""
