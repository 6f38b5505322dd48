"""What a run says: its JSON, and the texts, pages and comparisons made of it."""
