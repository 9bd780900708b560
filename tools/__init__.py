"""What is ours and no user's: measuring this project itself. Each is run as ``python -m tools.NAME``."""
