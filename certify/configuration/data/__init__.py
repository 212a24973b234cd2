"""Labelled inputs that a configuration names, from files of several kinds."""
