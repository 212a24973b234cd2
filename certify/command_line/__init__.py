"""The commands of ``certify``, the ends of the program, and what ``certify doctor`` looks at.

May import everything else; nothing but :mod:`certify.cli`, the entry point, imports this room.
"""
