"""How weights move: one file an optimiser. Each offers ``build(parameters, o: Optimizer) -> torch.optim.Optimizer``."""
