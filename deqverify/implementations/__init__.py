"""Implementations under verification: the protocol, framework bases, loading, and one file an adapter.

Private: what of it is public stands in ``deqverify`` itself.
"""
