"""What verl lacks, independent of SPRO: one file per extension, loaded by `verl_ext.plugin`."""
