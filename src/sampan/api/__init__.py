"""The Docker Engine API over HTTP: decode, call one use case, encode."""
