"""Intents, payments, operations and refunds: one road, so one capability.

More files than a capability usually has, because four objects move together: `present` is how they look outside, `outcome`
decides what an answer of a PSP means, `settle` and `confirm` are the two batches of the hot road, `waiting` is the bounded wait.
"""
