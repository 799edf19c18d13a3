"""What a tenant may use, across all nodes: leased from Redis in the background, spent in memory, who of it runs."""
