"""What the model finds of a given text: probabilities, surprisal, vectors."""
