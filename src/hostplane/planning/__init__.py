"""Decisions, and nothing else: from a snapshot of the cluster and a time to actions.

Every host that gets no action gets a reason. Nothing here reads a clock, draws a random number, keeps state between
calls or talks to anybody. So every decision can be replayed in a test, and an operator that died mid-way takes the
same decisions again from what is written.

    snapshot.py    what is known                plan.py      one pass over everything
    membership.py  who belongs where            kubeos.py    what a KubeOS node needs next
    wishes.py      which rollout is in force    native.py    what a Host needs next while it holds a grant
    windows.py     when work may begin          target.py    what a Host wants while it holds none
    budget.py      how many may be away         steps.py     how many may begin in a step
    actions.py     what can be done             progress.py  how far each wish is
    standing.py    where one host stands        eviction.py  which pods a drain moves
    cordon.py      a cordon and its mark        serial.py    KubeOS's serial mode
    strays.py      what no wish covers any more verdict.py   why an earlier operation ended
"""
