"""Any launcher on the nodes of a Slurm job: see README.md."""
