"""Channel counts that a device wants, checked on the artifact itself."""
