"""The fused engine: transforms compiled to programs, and what runs them."""
