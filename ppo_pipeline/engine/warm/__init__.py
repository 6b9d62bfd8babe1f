"""Warm starts: a small server process imports torch and transformers once and forks a child for each later stage.

launcher.py asks for a child and stands in for it; identity.py says whom a server may serve; server.py is the
server's program; libraries.py is what it imports. docs/warm-start.md says how it works and how it dies.
"""
