"""Decoding methods, one a file: a generator, its options, and its `MethodSpec`.

A method is plain sequential code for one request: it yields `Ask` and is sent the answers, and it
yields `Step`. It touches no model, cache, thread or batch. `gac_core.registry` lists the built-in
ones; add one of your own with `register_method`.

A method's options are read without torch, so these files import `Request` for type checkers only.
"""
