"""Knowledge distillation: losses, taps on features, projectors, and the training extension."""
