"""YAML to validated policies and ceilings, and those to grants. Knows neither Redis nor wasmtime."""
