"""The least time that a board could take: an estimate from data sheets, never a measurement."""
