"""End to end, through real Ray, verl, FSDP2 and vLLM on the CPU; a few runs are shared by all tests."""
