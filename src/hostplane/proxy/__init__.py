"""One node's proxy: its Host's wish to the agent, the agent's report to its Host. No other right, no state, no root.

decide.py    pure: which call the agent should get now
report.py    pure: what the Host should show, and how soon
view.py      the Host as last seen
courier.py   to the agent and back
reporter.py  Host.status
main.py      the process
"""
