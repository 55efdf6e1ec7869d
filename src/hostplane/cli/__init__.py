"""The command line: `hostplane`, also found by kubectl as `kubectl hostplane`. One module per verb, each thin."""
