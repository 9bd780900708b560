"""The laws: every correct DEQ satisfies them. One function a law, one file a family; installed as
``deqverify.properties``."""
