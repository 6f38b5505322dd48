"""Times of single convolutions, measured once for a machine."""
