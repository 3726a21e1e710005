"""Use cases, a module per noun; the class Engine only wires them together."""
