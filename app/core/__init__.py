"""What every capability shares and what depends on nothing: ids, money, machines, errors, time. Standard library and msgspec only."""
