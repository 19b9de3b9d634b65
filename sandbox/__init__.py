"""A payment service provider to rehearse against: a process of its own with a book of its own, which knows none of its clients.

`server` starts it, `http` speaks HTTP, `routes` knows the paths, `api` serves operations, `rules` decides them, `cards` lists the test
cards, `book` keeps them in SQLite, `commits` shares one fsync among many requests, `faults` misbehaves on request, `challenge` is the
3-D Secure page, `callbacks` announces later effects and `control` lets a test look behind the curtain.
"""
