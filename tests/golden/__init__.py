"""Runs the published code's recorded cases against the operators."""
