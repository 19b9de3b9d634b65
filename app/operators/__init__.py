"""What operators see and do: dead letters, queues; every act is written down with its reason by the transaction that does it."""
