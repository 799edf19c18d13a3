"""HTTP/1.1 on one connection, an ASGI application behind it. The HTTP servers hand their connections to this room."""
