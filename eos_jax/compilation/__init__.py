"""Programs compiled ahead of time, and what they would take where they run."""
