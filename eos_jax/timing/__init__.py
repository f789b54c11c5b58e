"""Times on the machine at hand: of plans, of layers, of reading images."""
