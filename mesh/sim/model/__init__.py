"""One random model of replication over the real code, with every known trouble at once.

Six nodes run `core/sync.py`, `receive.py`, `own.py`, `collect.py`, `fence.py`, `removal.py`, `rewind.py`
and the folds on logs in RAM. A seeded dice writes, loses, delays, cuts off, restores backups, lets relays
omit and forge, removes and buries authors, lets certificates run out, fills quotas and sets clocks wrong.
On the way heads and floors may not claim what is not so (`marks.py`). In the end everything is healed, and
three things are demanded (`final.py`): replicas are byte-identical, no acknowledged write is lost unless a
write that saw it replaced it, and nothing replaced or deleted is visible again (`truth.py` is the
brute-force oracle). A harness that finds nothing proves nothing: `variants.py` holds the rules that looked
right and were not, and each must be caught (`tests/sim/test_replication.py`).

    python -m mesh.sim.model --runs 10000 --seed 0 [--variant NAME] [--trace]

The seed is the bug report: the same seed gives the same run in any process.

What is not promised, and all that the oracle excuses (`world.py`):

    lost stores   what only a store held that died or was set back, also what it said for a removed author;
                  of an admin's, counts of a removed author that only others hold, who may not speak for it
    the fence     own writes after a backup of which nobody told the author within a day of the first answer:
                  they may be lost, and what they had replaced in the author's own slot may show again; a
                  register that another author had withdrawn because they beat it stays withdrawn
    removals      what the remover did not know of the removed author; its values of kind all and log; what a
                  register shows of it beside another's value that counts, in its slot or a copy there; what
                  it says afterwards, and what its withdrawals afterwards let go of; of its value and one that
                  the admin shows in the same slot one may go; all of it when no admin is left, because they
                  removed each other or the one that was not removed died
    a bad relay   a deleted value that it hid from the one who deleted it until that was collected; with an
                  author set back to a backup, live values that a reset of its own log did not name; counts
                  that its copy overwrote; what it says itself
    over quota    what an author says that has used its quota up: some took it and others could not, so it may
                  be lost, and show again
    together      a dead author and a bad relay are never in one run: nobody is left to answer its strays
"""
