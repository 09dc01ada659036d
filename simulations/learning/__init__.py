"""What virtual nodes do with each other's models after they have trained.

A rule (`rule`) is told every node's trained model and the round's mixing matrix, and
leaves what each node goes on with. Rules know rows and an exchange, nothing of where the
rows are: the same code runs in one process and over ranks.
"""
