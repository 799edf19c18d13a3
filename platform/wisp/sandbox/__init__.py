"""What runs a guest. Knows neither HTTP, Redis nor settings."""
