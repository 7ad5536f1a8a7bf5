"""One runnable script per question; results are JSON files in ``results/``."""
