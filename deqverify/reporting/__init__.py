"""Consumers of results: terminal and JSON.

Private: what of it is public stands in ``deqverify`` itself.
"""
