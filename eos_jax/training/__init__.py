"""Everything that moves parameters: steps, optimisers, checkpoints, loops."""
