"""Bytes and facts on disk: blobs by digest, layers by chainID, metadata in SQLite."""
