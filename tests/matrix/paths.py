"""The paths of the app, for the servers and the tests."""

OPEN = ("/health", "/open/*")
OPTIONAL = ("/optional",)
TIMEOUT_S = 0.5
STREAM_LIMIT_S = 30.0  # a client that does not get the first chunk never requests the second one

# The app's own responses, which must arrive byte for byte.
OWN = {
    "/own/404": (404, "Not Found", b"nothing here\n"),
    "/own/500": (500, "Internal Server Error", b"Internal Server Error"),
    "/own/204": (204, "No Content", b""),
    "/own/401": (401, "Unauthorized", b"by the app"),
    "/own/unusual": (299, "Unusual", bytes(range(256))),
}
