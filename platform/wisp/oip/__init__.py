"""The Open Inference Protocol, version 2, as bytes: what both its server (`api`) and its client (`egress`) speak."""
