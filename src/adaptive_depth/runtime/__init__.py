"""Running a network where it is used: sessions over exported files, and the governor that picks the depth.

Nothing here needs torch, unless a session runs a network of it.
"""
