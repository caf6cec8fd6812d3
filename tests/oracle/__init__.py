"""The per-stream path of release 0.1, frozen: the reference for every faster one. See test_oracle.py.

A commit that changes a rule of the core changes it here too, in its plain form. A commit that only makes the core faster changes nothing here.
"""
