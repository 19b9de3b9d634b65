"""`tollgate demo`: one payment on a fresh system of this machine, from the first request to the verified webhook.

`session` starts the system and ends it, `showing` is what happens meanwhile: `story` is the merchant's side of the payment, `receiver` is the merchant's web server,
`books` reads what the operator sees, `report` prints.
"""

from app.demo.session import run

__all__ = ["run"]
