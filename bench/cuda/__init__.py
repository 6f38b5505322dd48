"""CUDA without PyTorch: memory, streams, events, graphs."""
