"""The arena: people see pairs of pictures without knowing who drew them, and say which is better (arXiv 2311.17042, section 4).

It stands above ``evaluation``, whose statistics it uses, and above ``server``, whose bounds on clients it uses.
"""
