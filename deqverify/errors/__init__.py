"""What may differ from the truth, and by how much: from closed forms where a cell has them, from balls for every
other."""
