"""The command line: docker's verbs and flags."""
