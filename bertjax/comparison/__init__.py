"""The systems that BERT is explained against, on one text: what is run, and what it shows."""
