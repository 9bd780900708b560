"""Numerical experiments with claims that can fail: ``deqverify scenario NAME``. One file each, all of them seeded.

Private: what of it is public stands in ``deqverify`` itself.

A scenario asks no implementation: it runs on the closed forms of ``theory`` and on the text of the cells, and says of a
paper's statement whether it is so in numbers. What an implementation does is judged by laws.
"""
