"""Images elsewhere: the client of the distribution-spec."""
