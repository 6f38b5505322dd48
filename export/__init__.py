"""Export at the level of ONNX graphs: float file, quantization groups, Q/DQ dialects, parity.

Knows ONNX and PyTorch modules, nothing of recipes.
"""
