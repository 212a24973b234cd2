"""Operators of ONNX as ATen operations: one function and one row of a table each.

A function is given the node with its attributes, and a value for each input, None for one left out.
"""
