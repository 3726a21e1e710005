"""System calls as thin typed functions; no policy. Each names its man page."""
