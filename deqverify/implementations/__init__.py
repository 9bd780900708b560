"""Implementations under verification: the protocol, framework bases, loading, and one file an adapter."""
