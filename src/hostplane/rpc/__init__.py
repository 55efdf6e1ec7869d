"""Messages and framing between proxy and agent: JSON-RPC 2.0 on a unix stream socket, one JSON object per line.

The room knows how to say something and how to bound what the other side may say; what a method does is the agent's.
It imports nothing above it and runs on Python 3.6, because the agent carries it into hosts that have no newer one.
"""
