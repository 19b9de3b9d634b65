"""Payment service providers behind one protocol.

`base` says what an adapter is and what it may answer, `codes` what a refusal means, `registry` which adapter takes a payment.
Every other file is one provider; provider names and the HTTP client appear nowhere else.
"""
