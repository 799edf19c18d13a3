"""The wisp command."""
