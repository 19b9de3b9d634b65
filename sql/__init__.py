"""The schema: numbered migrations in plain SQL, `NNNN_name.sql`, and their runner.

Append-only and forward-only: a file that is merged never changes (its checksum is recorded), a mistake is mended by the next
number. Each file begins with why it is there and is safe while the code of before still runs.
"""
