"""Nothing: gossipy imports torchvision for data sets that are not used here.

It does not require it, and builds that fit a given torch are not everywhere. Scripts find
what lies beside them first.
"""
