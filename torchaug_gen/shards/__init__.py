"""Tar shards in the format of webdataset."""
