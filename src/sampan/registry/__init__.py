"""Images elsewhere: distribution client and server."""
