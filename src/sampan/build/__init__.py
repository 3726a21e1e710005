"""Dockerfile to image: parser, graph, cache, executor."""
