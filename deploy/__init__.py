"""Runs a deployment bundle: numpy and onnxruntime alone, from Python 3.8 on."""
