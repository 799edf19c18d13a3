"""What infers: onnxruntime sessions and model admission. Knows neither HTTP, Redis nor settings."""
