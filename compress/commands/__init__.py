"""Commands of their own file, registered in ``compress/cli.py``."""
