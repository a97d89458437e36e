"""Published experiments as an application of fusetune: their data as tables, drawn stand-ins, and their procedures.

Nothing in fusetune knows of it. Its commands (`fusetune reproduce`, `fusetune data fpus23` and so on) are found through
the entry point `fusetune.commands`.
"""
