"""Data sets: read, check, fingerprint, and one that is drawn on the spot. No torch in here."""
