"""One input in detail: what the page shows when an input is clicked.

Everything here is plain data for the script ``scripts/input_view.js``, with all numbers already in words.
"""
