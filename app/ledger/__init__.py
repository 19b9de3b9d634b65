"""The books, in double entry. `rules.py` says which entries a fact makes, `store.py` posts and reads them.

There is no `api.py` and no `actions.py`: nobody asks for a posting, it is part of the transaction of the fact.
"""
