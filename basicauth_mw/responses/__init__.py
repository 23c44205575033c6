"""How a response reaches the server: our own, and the app's, which is held while it can still be replaced."""
