"""The gateway, one folder per capability. `main.py` wires them; nothing else knows them all."""
