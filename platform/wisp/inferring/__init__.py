"""How a caller infers without a guest: who may, with which models, in this node's hosts or on another machine."""
