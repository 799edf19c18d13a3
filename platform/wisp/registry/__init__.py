"""What exists: tenants, keys, functions, versions, models and blobs, in Redis and an object store."""
