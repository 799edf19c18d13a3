"""What leaves on a guest's behalf."""
