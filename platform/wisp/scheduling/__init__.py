"""The router's side of its children: pools, tenant-fair queues, deadlines, kill and replace."""
