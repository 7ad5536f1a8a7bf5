"""Three backends that compute the same function: reference (PyTorch), cpu (Numba) and cuda (Triton)."""
