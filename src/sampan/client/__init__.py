"""A client of any Engine API server."""
