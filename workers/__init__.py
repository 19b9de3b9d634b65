"""What is done with each kind of outbox row: one file per family of queues; `clock` is a process of its own."""
