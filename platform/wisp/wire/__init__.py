"""What passes between the processes: frames, sealed segments, tensors, the exchange, outcomes."""
