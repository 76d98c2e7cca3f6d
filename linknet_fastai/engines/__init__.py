"""What runs a network: torch, ONNX Runtime, OpenVINO. Imports no torch, except torch_engine."""
