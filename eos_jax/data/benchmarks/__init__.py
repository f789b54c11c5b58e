"""The files of the field's benchmarks, and what they ask."""
