"""How fast, and how right: fixed problems, contenders, achieved accuracy, the floor, comparison of commits, scaling.

Private: what of it is public stands in ``deqverify`` itself.

Nothing here imports a framework when it is imported; a contender does when it is prepared.
"""
