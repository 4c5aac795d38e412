"""Response groups: how each is asked for, how it opens and how its answer is read."""

from ibpo.responses.groups import EncodedGroups, encode_groups, encode_prefix, find_group, offer

__all__ = ["EncodedGroups", "encode_groups", "encode_prefix", "find_group", "offer"]
