"""How fast, and how right: fixed problems, contenders, achieved accuracy, the floor, comparison of commits, scaling.

Nothing here imports a framework when it is imported; a contender does when it is prepared.
"""
