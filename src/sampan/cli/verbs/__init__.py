"""The verbs, one module each (or one for a small group), imported on demand."""
