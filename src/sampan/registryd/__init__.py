"""The registry server: the OCI distribution-spec 1.1 over a content store of its own or an engine's."""
