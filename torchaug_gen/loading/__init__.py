"""The loader that users wrap around theirs."""
