"""How containers talk: addresses, bridges, veths, published ports, names."""
