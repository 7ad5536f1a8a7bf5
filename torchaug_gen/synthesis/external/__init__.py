"""Synthesizers from files that others wrote: one module per format, none of which trusts what it reads."""
