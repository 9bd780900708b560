"""Consumers of results: terminal and JSON."""
