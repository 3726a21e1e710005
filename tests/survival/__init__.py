"""The engine killed at random moments under load: nothing is lost, nothing is left."""
