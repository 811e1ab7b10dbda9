"""Decoding methods, one a file: a generator, its options, and its `MethodSpec`.

A method is plain sequential code for one request: it yields `Ask` and is sent the answers, and it
yields `Step`. It touches no model, cache, thread or batch. `gac_core.registry` knows where ours
are; add one of your own with `register_method`.

To read a method's options takes no torch, so these files import `Request` for type checkers only.
"""
