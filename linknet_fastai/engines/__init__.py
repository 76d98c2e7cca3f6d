"""What runs a network: torch, ONNX Runtime, OpenVINO. Only torch_engine imports torch."""
