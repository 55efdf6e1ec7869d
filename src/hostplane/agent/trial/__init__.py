"""A new slot on trial: its checks, what was noted before the reboot, the watchdog, and the service that owns it all.

    checks.py     the table of the host's own checks, one round of them, and the note taken before the reboot
    userchecks.py the administrator's: every executable in /etc/hostplane/checks.d
    systemd.py, services.py, network.py, neighbours.py   what the checks look at
    guard.py      hostplane-trial.service: takes the tries away, keeps the agent alive, else reboots
    watchdog.py   the device that reboots a host whose guard has stopped

Nothing here decides what a trial's end means; that is machine.py's.
"""
