"""Policies: functions from what a stack's adapters do to each other to a method per group."""
