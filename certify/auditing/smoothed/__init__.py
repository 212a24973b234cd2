"""Certificates of smoothed classifiers: votes drawn once more, and radii derived from them in exact arithmetic."""
