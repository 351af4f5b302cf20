"""Compare methods over seeds: train them (``run``), and report on finished verl runs (``report``)."""
