"""The on-device store of synthetic samples that are drawn more than once."""
