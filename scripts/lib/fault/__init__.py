"""The fault yard behind `scripts/fault`: real agents, real troubles, and a judge who kept a history.

field      agents, each in a network namespace of its own where root, else all on loopback
network    the hub between the namespaces: loss, cuts, one-way cuts, all in one atomic change
watching   who believed what of whom, and when: the event streams of all agents on one clock
history    writers through the admin sockets, what was acknowledged, and what must be true of it later
report     figures beside the bar and the anchor, as lines of JSON and as a table
rows       the table of rows; the files beside it hold one family of rows each
"""
