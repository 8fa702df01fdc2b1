"""The embedded sample checkpoint and the script that trained it."""
