"""The core as it was before it was divided into rooms, frozen: the reference for every later form of it. See test_oracle.py.

A commit that changes a rule of the core changes it here too. A commit that moves code, or makes it faster, changes nothing here.
"""
