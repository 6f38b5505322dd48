"""How long each layer takes, and which PyTorch module it belongs to."""
