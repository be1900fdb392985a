"""Who restarts the daemon and keeps descriptors for it: systemd, or where there is none, a small process of als's own.

Both speak one protocol, sd_notify(3), so the daemon does not know which of them it is (:mod:`als.keeper.manager`).
"""
