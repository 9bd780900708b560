"""How fast, and how right: ``deqverify bench``. Every time stands beside the error that was achieved.

Private: what of it is public stands in ``deqverify`` itself.

Nothing here imports a framework when it is imported; a target does when it is prepared.
"""
