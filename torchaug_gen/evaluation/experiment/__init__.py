"""The experiment: low-data classification with and without synthetic images, on paired seeds, cell by cell."""
