"""The results database: what is stored, every write, every question."""
