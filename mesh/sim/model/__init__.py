"""One random model of replication over the real code, with every known trouble at once.

Six nodes run `core/sync.py`, `receive.py`, `collect.py`, `fence.py` and the folds on logs in RAM. A seeded
dice writes, loses, delays, cuts off, restores backups, lets relays omit and forge, removes and buries
authors, lets certificates run out, fills quotas and sets clocks wrong. In the end everything is healed, and
three things are demanded (`final.py`): replicas are byte-identical, no acknowledged write is lost unless a
write that saw it replaced it, and nothing replaced or deleted is visible again (`truth.py` is the brute-force
oracle). A harness that finds nothing proves nothing: `variants.py` holds the rules that looked right and were
not, and each must be caught.

    python -m mesh.sim.model --runs 10000 --seed 0 [--variant NAME] [--trace]

The seed is the bug report: the same seed gives the same run in any process.
"""
