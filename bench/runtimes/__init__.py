"""One small file a runtime, each behind ``bench.runtimes.base.Runtime``."""
