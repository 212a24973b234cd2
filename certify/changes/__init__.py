"""Changed features of tables and words of texts, as sets in the place of a norm."""
