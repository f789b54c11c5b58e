"""Datasets, tokenizer and loaders; numpy only, no model code."""
