"""Decisions, and nothing else: from a snapshot of the cluster and a time to actions.

Every host that gets no action gets a reason. Nothing here reads a clock, draws a random number, keeps state between
calls or talks to anybody. So every decision can be replayed in a test, and an operator that died mid-way takes the same decisions again from what is written.

    snapshot.py    what is known            plan.py        one pass over everything
    membership.py  who belongs where        kubeos.py      what a KubeOS node needs next
    wishes.py      which rollout is in force  native.py    what a Host needs next
    windows.py     when work may begin      budget.py      how many may be away
    actions.py     what can be done         progress.py    how far each wish is
    eviction.py    which pods a drain moves
"""
