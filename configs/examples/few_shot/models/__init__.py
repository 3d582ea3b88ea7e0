"""Scenes and features that the base and the replication share."""
