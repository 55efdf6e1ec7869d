"""Upgrades of whole hosts: one small image in two versions, the second one also with every fault that a test needs."""
