"""What a person, a unit or a test asks on the command line: `hostplane-agent VERB`.

    parser                      the command line            text, banner    what a person reads
    commands, etc, plan...      the verbs' work             serve           the agent itself

A verb asks the agent over its socket, or looks by itself where it changes nothing; it decides nothing. What it needs
beyond its options is imported when it runs: an agent at rest does without it.
"""
