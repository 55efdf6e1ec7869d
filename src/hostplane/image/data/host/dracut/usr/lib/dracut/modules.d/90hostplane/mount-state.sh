#!/bin/sh
# Without systemd: the root is mounted, nothing has been started from it.
/bin/sh /usr/lib/hostplane/mounts enter "$NEWROOT" || /bin/sh /usr/lib/hostplane/mounts lost
