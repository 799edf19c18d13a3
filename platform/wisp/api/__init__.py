"""What is spoken: the control plane, the /t/ data plane, problems, keys, OpenAPI."""
