"""The operator: read the wish, read the world, compute, apply, report. Nothing here decides; `planning` does.

world.py    the objects as last seen, and what this process saw itself
passes.py   one pass after another: plan, Ledger, writes
effects.py  one action, one coroutine; each safe to repeat and safe to lose
word.py     the DaemonSet pods of a host: noted before its drain, asked for on its trial
drain.py, cordon.py   how a node is emptied, and left as it was found
report.py   statuses, conditions, Events and metrics
main.py     the process: session, leader, tasks, health pages
"""
