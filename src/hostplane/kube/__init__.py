"""The Kubernetes client: sessions, informers, leader election and Events, and nothing about hosts.

Only `session` and what is below it (`transport`, `auth`, `wire`, `pace`) know HTTP; the rest stands on Session.
"""
