"""One model behind `score`, wherever it lives."""
