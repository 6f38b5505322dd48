"""CUDA from Python: one device with a stream of its own, by PyCUDA or by ``libcudart`` alone."""
