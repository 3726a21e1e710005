"""sampand: flags, configuration, sockets, signals; wires the engine to the API."""
