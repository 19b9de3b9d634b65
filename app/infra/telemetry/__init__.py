"""What a process shows of itself beside its logs: figures in `/metrics`, and spans.

`catalog` names every figure that is counted, `tally` counts in memory, `totals` brings the counts of all processes together in
Postgres, `gauges` are asked of the tables when somebody looks, `exposition` prints it all; `spans` and `export` are the traces.
"""
