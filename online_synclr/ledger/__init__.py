"""What a run trained on, group by group: recipes instead of pictures. Imports no torch.

    trainer ranks --append--> <run>/ledger/000003-t0.ledger --read--> replay, totals, generators

One file a trainer rank and attempt. A group is entered at its first use, in the order of use; how
often it was used is entered when it leaves the pool and before each checkpoint.
"""
