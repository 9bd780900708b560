"""The laws: every correct DEQ satisfies them. One function a law, one file a family; installed as
``deqverify.properties``.

Private: what of it is public stands in ``deqverify`` itself.
"""
