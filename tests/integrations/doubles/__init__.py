"""Stand-ins for the code that people copy into their own tree: the same names, calls, keys and numbers.

They are written from a description of what each original does, and held to its stored outputs and gradients.
"""
