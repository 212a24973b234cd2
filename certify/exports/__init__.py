"""Tables and figures as files: for other programs, for papers, for notes.

May import the ground and the report; knows tables and figures, but no evaluation.
"""
