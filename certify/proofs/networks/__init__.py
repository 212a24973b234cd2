"""Networks as the checker sees them: read from ONNX, and made of linear maps and functions."""
