"""The machines that are measured on: what they are, and how they fare meanwhile."""
