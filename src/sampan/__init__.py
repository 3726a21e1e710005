"""sampan: a container engine that speaks Docker's protocols, written in Python."""

__version__ = "0.1.0"
