"""Compress YOLO detectors: prune, distil, train for INT8, export and prove the speed."""

__version__ = "0.1.0"
