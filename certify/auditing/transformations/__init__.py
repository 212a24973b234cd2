"""Audit of transformed images: measured, made again, and enclosed by interval arithmetic of the audit's own."""
