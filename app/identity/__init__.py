"""Merchants and their API keys.

Beside the usual files: `tokens` (how a key looks outside) and `keyring` (keys this process has seen, kept for seconds, because
every request asks for one).
"""
