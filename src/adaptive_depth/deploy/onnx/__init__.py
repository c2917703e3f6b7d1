"""ONNX: a file with every depth, and onnxruntime."""
